"""AV-MNIST: weakened images of digits, each with a digit spoken in noise.

Made of the idx files of MNIST (LeCun, Cortes & Burges) and the recordings of the Free Spoken
Digit Dataset, after V. Vielzeuf et al., "CentralNet: a multilayer approach for multimodal
fusion" (2018), arXiv 1808.07275. Its authors' files are not public, so this is a set of the
same kind, not the same set.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from sft_jax.data.readers.idx import read_idx
from sft_jax.data.readers.log_mel import log_mel
from sft_jax.data.readers.noisy_speech import NoisySpeech, choose, mix
from sft_jax.data.readers.spoken_digits import (
    DIGITS,
    SAMPLE_RATE,
    SpokenDigit,
    find_spoken_digits,
    read_spoken_digits,
)
from sft_jax.data.readers.weak_images import blank_patches, fit_components, weaken
from sft_jax.data.records import DataFileError, RawData, Record

SPLITS = ("train", "valid", "test")

CLASS_NAMES = tuple(map(str, DIGITS))

_SIZE = 28  # pixels
_FRAME, _HOP, _BANDS = 256, 128, 32
_BLANKED = 0.75  # share of the patches in the harder variant
_VALID_SHARE = 12  # One training image in so many is for validation.
_RECORDINGS = {"test": range(5), "valid": range(5, 10)}  # by index, the rest are for training
_MNIST_FILES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}
_MNIST_SOURCES = (
    "http://yann.lecun.com/exdb/mnist/ or https://storage.googleapis.com/cvdf-datasets/mnist/"
)
_SPEECH_SOURCE = "https://github.com/Jakobovski/free-spoken-digit-dataset"
_RELEASES = {"AV-MNIST (Vielzeuf et al. 2018)": {"train": 55_000, "valid": 5_000, "test": 10_000}}


@dataclasses.dataclass(frozen=True)
class AvMnistOptions:
    """How the images are weakened, what noise the speech is in, and how many pairs there are.

    Attributes:
      energy: the fewest principal components are kept that carry this share of the variance
        of the training images, above 0 and at most 1. MNIST's first 3 carry 23 %, 4 carry 28 %.
      blanked_share: of the 49 patches of 4 x 4 pixels of an image, how many are 0, from 0 to 1;
        others in each image.
      snr_db: lowest and highest ratio of speech to noise, see `noisy_speech.mix`; each value
        between them is equally likely.
      window_seconds: length of a sound, a whole number of samples at 8 kHz.
      babble_voices: of how many recordings the babble is made.
      train_pairs, valid_pairs, test_pairs: number of examples of each split; by default one
        for each image. Fewer are the first of them.
      seed: of all that is random, 0 to 2^32 - 1.

    Raises:
      ValueError: if a field is not within these limits.
    """

    energy: float = 0.25
    blanked_share: float = 0.0
    snr_db: tuple[float, float] = (-14.0, 6.0)
    window_seconds: float = 1.04
    babble_voices: int = 4
    train_pairs: int | None = None
    valid_pairs: int | None = None
    test_pairs: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        samples = self.window_seconds * SAMPLE_RATE
        lowest, highest = self.snr_db
        rules = {
            "energy": (0 < self.energy <= 1, "above 0 and at most 1"),
            "blanked_share": (0 <= self.blanked_share <= 1, "from 0 to 1"),
            "snr_db": (
                math.isfinite(lowest) and math.isfinite(highest) and lowest <= highest,
                "two finite numbers, the lower first",
            ),
            "window_seconds": (
                math.isfinite(samples)
                and abs(samples - round(samples)) < 1e-6
                and samples >= _FRAME,
                f"at least {_FRAME / SAMPLE_RATE:g} and a multiple of {1 / SAMPLE_RATE:g}",
            ),
            "babble_voices": (self.babble_voices >= 1, "at least 1"),
            "seed": (0 <= self.seed < 2**32, "from 0 to 2^32 - 1"),
        }
        for split in SPLITS:
            pairs = getattr(self, f"{split}_pairs")
            rules[f"{split}_pairs"] = (pairs is None or pairs >= 1, "None or at least 1")
        for field, (good, allowed) in rules.items():
            if not good:
                raise ValueError(f"{field}={getattr(self, field)!r} must be {allowed}")

    @property
    def window(self) -> int:
        """Length of a sound in samples."""
        return round(self.window_seconds * SAMPLE_RATE)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Modality to the shape of its examples: pixels, and frames by bands."""
        frames = 1 + (self.window - _FRAME) // _HOP
        return {"image": (_SIZE, _SIZE, 1), "sound": (frames, _BANDS, 1)}

    @property
    def variant(self) -> str:
        """An identifier that other options do not have.

        It is `full` or `blanked` (three quarters of the patches), followed by the name and
        value of every other field that is not at its default, such as `full_train_pairs_8000`.
        """
        fields = {field.name: field.default for field in dataclasses.fields(self)}
        name = "full"
        if self.blanked_share == _BLANKED:
            name, fields["blanked_share"] = "blanked", _BLANKED
        for field, default in fields.items():
            value = getattr(self, field)
            if value != default:
                values = value if isinstance(value, tuple) else (value,)
                name += "_".join(["", field, *map(_identifier, values)])
        return name


def _identifier(value: float) -> str:
    text = repr(int(value) if value == int(value) else value)
    return text.replace("-", "minus").replace("+", "").replace(".", "p")


class AvMnistPair(NamedTuple):
    """An example whose sound is not yet a spectrogram.

    Attributes:
      number: place of the image in its file, from 0.
      image: `[28, 28]` uint8.
      recording: what is spoken.
      snr_db: ratio of the speech to the noise.
      sound: both.
    """

    number: int
    image: np.ndarray
    recording: SpokenDigit
    snr_db: float
    sound: NoisySpeech


class _Split(NamedTuple):
    """What a split is made of; `first` is the place of its first image in the file."""

    images: np.ndarray
    labels: np.ndarray
    first: int
    recordings: list[SpokenDigit]


class AvMnist:
    """Pairs of an image and a spoken digit, each made when it is asked for.

    The valid split is the last twelfth of MNIST's training images (5,000 of 60,000), the test
    split its test images. Recordings 0 to 4 of each speaker and digit are heard in the test
    split only, as speech and as babble, 5 to 9 in the valid split, the others in training.

    The images of a split come in a random order, each with a random recording of the same
    digit; the babble is made of other recordings of the split, of any digit. An example depends
    on the seed, its split and its place there alone.

    Attributes:
      files: what was read.
      options: how the pairs are made.
      num_examples: number of pairs of each split.
      components: number of principal components that the images are made of.
      energy: share of the variance that they carry.
    """

    def __init__(self, folder: pathlib.Path, options: AvMnistOptions) -> None:
        """Reads and weakens all images, and reads all recordings; see `read_av_mnist`."""
        files, speech = _find(folder)
        self.files = (*files.values(), speech)
        self.options = options
        splits = _read_splits(files, speech)
        self.num_examples = {
            split: _number_of_pairs(split, len(of.labels), options) for split, of in splits.items()
        }
        kept = fit_components(splits["train"].images, options.energy)
        self.components, self.energy = kept.components.shape[1], kept.energy
        self._splits = {
            split: of._replace(images=weaken(of.images, kept)) for split, of in splits.items()
        }
        self._order = {
            split: np.argsort(self._rng(split, 0).random(len(of.labels)))
            for split, of in splits.items()
        }

    def pair(self, split: str, index: int) -> AvMnistPair:
        """Makes one example.

        Args:
          split: one of `SPLITS`.
          index: its place in the split, from 0.
        """
        rng, of = self._rng(split, 1 + index), self._splits[split]
        number = int(self._order[split][index])
        # Recordings are sorted by digit, and there are equally many of each.
        each = len(of.recordings) // len(DIGITS)
        spoken = int(of.labels[number]) * each + choose(rng, each)
        others = [choose(rng, len(of.recordings) - 1) for _ in range(self.options.babble_voices)]
        voices = [of.recordings[other + (other >= spoken)].samples for other in others]
        lowest, highest = self.options.snr_db
        snr_db = lowest + (highest - lowest) * rng.random()
        recording = of.recordings[spoken]
        sound = mix(rng, recording.samples, voices, snr_db, self.options.window)
        # Last, so that the sounds are the same whether patches are blanked or not.
        image = blank_patches(rng, of.images[number], self.options.blanked_share)
        return AvMnistPair(of.first + number, image, recording, snr_db, sound)

    def read(self, split: str) -> Iterator[Record]:
        """The examples of a split, in order.

        Raises:
          ValueError: if there is no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}: there are {', '.join(SPLITS)}")
        for index in range(self.num_examples[split]):
            pair = self.pair(split, index)
            wave = pair.sound.speech + pair.sound.babble + pair.sound.pink
            # Each for itself: together, their last bits would depend on how many they are.
            sound = log_mel(wave, sample_rate=SAMPLE_RATE, window=_FRAME, hop=_HOP, bands=_BANDS)
            yield {
                "id": f"image_{pair.number:05d}+{pair.recording.name}",
                "inputs": {"image": pair.image[..., None], "sound": sound[..., None]},
                "label": pair.recording.digit,
            }

    def _rng(self, split: str, stream: int) -> np.random.Generator:
        # Of NumPy's generators only the uniform numbers stay the same from release to release,
        # so everything that is random is made of them.
        return np.random.Generator(
            np.random.PCG64(
                np.random.SeedSequence((self.options.seed, SPLITS.index(split), stream))
            )
        )


def read_av_mnist(
    folder: str | pathlib.Path, options: AvMnistOptions = AvMnistOptions()
) -> RawData:
    """Reads the files that AV-MNIST is made of; its examples are made as they are read.

    Modality `image` is `[28, 28, 1]` uint8; modality `sound` is `[frames, 32, 1]` float32, the
    natural logarithm of the power in 32 mel bands (see `log_mel`) of frames of 256 samples
    every 128: 64 frames in 1.04 s. See `AvMnist` for the splits.

    Args:
      folder: where the files are, it or folders below it. They are the four files of MNIST,
        packed with gzip or not, and a folder `recordings` of spoken digits or the archive
        `*free-spoken-digit-dataset*.tar.gz` that holds one.
      options: how the examples are made.

    Raises:
      DataFileError: if files are missing, with the names and sources of all of them, or there
        more than once, or one is damaged or is not what its name says.
      ValueError: if more pairs are asked for than there are images.
      OSError: if a file cannot be opened.
    """
    made = AvMnist(pathlib.Path(folder).expanduser(), options)
    return RawData(
        variant=options.variant,
        files=made.files,
        shapes=options.shapes,
        class_names=CLASS_NAMES,
        task="single_label",
        num_examples=made.num_examples,
        read=made.read,
        known_releases=_RELEASES,
    )


def _number_of_pairs(split: str, images: int, options: AvMnistOptions) -> int:
    asked = getattr(options, f"{split}_pairs")
    if asked is not None and asked > images:
        raise ValueError(f"{split}_pairs={asked} must be at most {images}, one for each image")
    return images if asked is None else asked


def _find(folder: pathlib.Path) -> tuple[dict[tuple[str, str], pathlib.Path], pathlib.Path]:
    """The four files of MNIST, and the folder or archive of recordings."""
    if not folder.is_dir():
        raise DataFileError(f"there is no folder {folder}")
    found = {key: _find_mnist(folder, name) for key, name in _MNIST_FILES.items()}
    speech = find_spoken_digits(folder)
    missing = [
        f"{_MNIST_FILES[key]}[.gz] from {_MNIST_SOURCES}" for key, path in found.items() if not path
    ]
    if not speech:
        missing.append(
            "*free-spoken-digit-dataset*.tar.gz, or its folder recordings with"
            f" DIGIT_SPEAKER_INDEX.wav, from {_SPEECH_SOURCE}"
        )
    if missing or not speech:
        raise DataFileError("\n  ".join([f"{folder} and its subfolders lack:", *missing]))
    return {key: path for key, path in found.items() if path}, speech


def _find_mnist(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    names = {name, name.replace("-idx", ".idx")}  # Both are in use.
    names |= {f"{unpacked}.gz" for unpacked in names}
    paths = sorted(path for path in folder.rglob(f"{name[:12]}*") if path.name in names)
    parents = {path.parent for path in paths}
    if len(parents) > 1:
        raise DataFileError(
            f"{name} is in more than one folder, and may be of other images than MNIST's there:"
            f" {', '.join(map(str, sorted(parents)))}; give a folder that has it once"
        )
    return paths[0] if paths else None


def _read_splits(
    files: Mapping[tuple[str, str], pathlib.Path], speech: pathlib.Path
) -> dict[str, _Split]:
    images, labels = _read_images(files["train", "images"], files["train", "labels"])
    held_out = len(images) // _VALID_SHARE
    if not held_out:
        raise DataFileError(
            f"{files['train', 'images']} has {len(images)} images, at least {_VALID_SHARE} are"
            " needed"
        )
    first = len(images) - held_out
    test = _read_images(files["test", "images"], files["test", "labels"])
    spoken = _split_recordings(speech, read_spoken_digits(speech))
    return {
        "train": _Split(images[:first], labels[:first], 0, spoken["train"]),
        "valid": _Split(images[first:], labels[first:], first, spoken["valid"]),
        "test": _Split(*test, 0, spoken["test"]),
    }


def _read_images(
    images_path: pathlib.Path, labels_path: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dtype != np.uint8 or images.shape[1:] != (_SIZE, _SIZE) or not len(images):
        raise DataFileError(
            f"{images_path} holds {images.dtype} of shape {images.shape}, expected uint8 of shape"
            f" (images, {_SIZE}, {_SIZE})"
        )
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise DataFileError(
            f"{labels_path} holds {labels.dtype} of shape {labels.shape}, expected uint8 of shape"
            f" {images.shape[:1]}, one for each image of {images_path}"
        )
    if labels.max() > max(DIGITS):
        raise DataFileError(f"{labels_path} has the label {labels.max()}, expected 0 to 9")
    return images, labels


def _split_recordings(
    path: pathlib.Path, recordings: list[SpokenDigit]
) -> dict[str, list[SpokenDigit]]:
    held_out = {index for indices in _RECORDINGS.values() for index in indices}
    splits = {
        split: [recording for recording in recordings if recording.take in indices]
        for split, indices in _RECORDINGS.items()
    }
    splits["train"] = [recording for recording in recordings if recording.take not in held_out]
    if not splits["train"]:
        raise DataFileError(
            f"{path} has recordings 0 to {recordings[-1].take} of each speaker and digit, but"
            f" those for training begin at {max(held_out) + 1}"
        )
    return splits
