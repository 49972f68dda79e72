"""AV-MNIST: weakened images of digits, each with a digit spoken in noise.

It combines the idx files of MNIST (LeCun, Cortes & Burges) with the recordings of the Free
Spoken Digit Dataset, after V. Vielzeuf et al., "CentralNet: a multilayer approach for multimodal
fusion" (2018), arXiv 1808.07275. The authors' files are not public, so this dataset is similar
to theirs but not identical.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sft_jax.data.records import RawData, Record
from sft_jax.data.sets.av_mnist.files import find_files, read_splits
from sft_jax.data.sets.av_mnist.log_mel import log_mel
from sft_jax.data.sets.av_mnist.noisy_speech import NoisySpeech, choose, mix
from sft_jax.data.sets.av_mnist.options import BANDS, DEFAULT, FRAME, HOP, AvMnistOptions
from sft_jax.data.sets.av_mnist.spoken_digits import DIGITS, SAMPLE_RATE, SpokenDigit
from sft_jax.data.sets.av_mnist.weak_images import blank_patches, fit_components, weaken
from sft_jax.data.sets.base import SPLITS

CLASS_NAMES = tuple(map(str, DIGITS))

_RELEASES = {"AV-MNIST (Vielzeuf et al. 2018)": {"train": 55_000, "valid": 5_000, "test": 10_000}}


class AvMnistPair(NamedTuple):
    """An example whose sound is not yet a spectrogram.

    Attributes:
      number: Index of the image in its file, from 0.
      image: `[28, 28]` uint8.
      recording: Spoken digit.
      snr_db: Ratio of the speech to the noise.
      sound: Speech and noise.
    """

    number: int
    image: np.ndarray
    recording: SpokenDigit
    snr_db: float
    sound: NoisySpeech


class AvMnist:
    """Pairs of an image and a spoken digit, each made on access.

    The valid split is the last twelfth of MNIST's training images (5,000 of 60,000), and the test
    split is MNIST's test images. Recordings 0 to 4 of each speaker and digit are in the test split
    only, as speech and as babble. Recordings 5 to 9 are in the valid split, the others in
    training.

    The images of a split come in a random order, each with a random recording of the same
    digit. The babble is mixed from other recordings of the split, of any digit. An example depends
    only on the seed, its split and its index in the split.

    Attributes:
      files: Files that were read.
      options: Options of the pairs.
      num_examples: Number of pairs in each split.
      components: Number of principal components kept in the images.
      energy: Share of the variance that the components carry.
    """

    def __init__(self, folder: pathlib.Path, options: AvMnistOptions) -> None:
        """Reads and weakens all images, and reads all recordings; see `read_av_mnist`."""
        files, speech = find_files(folder)
        self.files = (*files.values(), speech)
        self.options = options
        splits = read_splits(files, speech)
        self.num_examples = {
            split: _number_of_pairs(split, len(source.labels), options)
            for split, source in splits.items()
        }
        kept = fit_components(splits["train"].images, options.energy)
        self.components, self.energy = kept.components.shape[1], kept.energy
        self._splits = {
            split: source._replace(images=weaken(source.images, kept))
            for split, source in splits.items()
        }
        self._order = {
            split: np.argsort(self._rng(split, 0).random(len(source.labels)))
            for split, source in splits.items()
        }

    def pair(self, split: str, index: int) -> AvMnistPair:
        """Makes one example.

        Args:
          split: Name of the split, one of `SPLITS`.
          index: Index in the split, from 0.
        """
        rng, source = self._rng(split, 1 + index), self._splits[split]
        number = int(self._order[split][index])
        # Recordings are sorted by digit, and each digit has equally many.
        each = len(source.recordings) // len(DIGITS)
        spoken = int(source.labels[number]) * each + choose(rng, each)
        others = [
            choose(rng, len(source.recordings) - 1) for _ in range(self.options.babble_voices)
        ]
        voices = [source.recordings[other + (other >= spoken)].samples for other in others]
        lowest, highest = self.options.snr_db
        snr_db = lowest + (highest - lowest) * rng.random()
        recording = source.recordings[spoken]
        sound = mix(rng, recording.samples, voices, snr_db, self.options.window)
        # Blanking draws last, so that the sounds are the same with and without it.
        image = blank_patches(rng, source.images[number], self.options.blanked_share)
        return AvMnistPair(source.first + number, image, recording, snr_db, sound)

    def read(self, split: str) -> Iterator[Record]:
        """Makes the examples of a split, in order.

        Raises:
          ValueError: If the split is unknown.
        """
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}: there are {', '.join(SPLITS)}")
        for index in range(self.num_examples[split]):
            pair = self.pair(split, index)
            wave = pair.sound.speech + pair.sound.babble + pair.sound.pink
            # Sounds are transformed one by one: the last bits of a stack depend on its size.
            sound = log_mel(wave, sample_rate=SAMPLE_RATE, window=FRAME, hop=HOP, bands=BANDS)
            yield {
                "id": f"image_{pair.number:05d}+{pair.recording.name}",
                "inputs": {"image": pair.image[..., None], "sound": sound[..., None]},
                "label": pair.recording.digit,
            }

    def _rng(self, split: str, stream: int) -> np.random.Generator:
        # All random values derive from uniform numbers. NumPy keeps no other distribution the
        # same from release to release.
        return np.random.Generator(
            np.random.PCG64(
                np.random.SeedSequence((self.options.seed, SPLITS.index(split), stream))
            )
        )


def read_av_mnist(folder: str | pathlib.Path, options: AvMnistOptions = DEFAULT) -> RawData:
    """Reads the files that AV-MNIST is made from; its examples are made as they are read.

    Modality `image` is `[28, 28, 1]` uint8. Modality `sound` is `[frames, 32, 1]` float32, the
    natural logarithm of the power in 32 mel bands (see `log_mel`). A frame has 256 samples and
    starts 128 samples after the previous frame, so 1.04 s have 64 frames. See `AvMnist` for the
    splits.

    Args:
      folder: Folder that contains the files, directly or in subfolders. The files are the four
        of MNIST, compressed with gzip or not, and recordings of spoken digits. The recordings
        are in a folder `recordings`, or in an archive `*free-spoken-digit-dataset*.tar.gz` with
        such a folder.
      options: Options of the pairs.

    Raises:
      DataFileError: If files are missing (the message gives the name and source of each) or
        occur more than once. Also if a file is damaged or its contents contradict its name.
      ValueError: If the options request more pairs than there are images.
      OSError: If a file cannot be opened.
    """
    pairs = AvMnist(pathlib.Path(folder).expanduser(), options)
    return RawData(
        variant=options.variant,
        files=pairs.files,
        shapes=options.shapes,
        class_names=CLASS_NAMES,
        task="single_label",
        num_examples=pairs.num_examples,
        read=pairs.read,
        known_releases=_RELEASES,
    )


def _number_of_pairs(split: str, images: int, options: AvMnistOptions) -> int:
    count = getattr(options, f"{split}_pairs")
    if count is not None and count > images:
        raise ValueError(f"{split}_pairs={count} must be at most {images}, one for each image")
    return images if count is None else count
