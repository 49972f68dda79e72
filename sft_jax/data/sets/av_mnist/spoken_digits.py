"""The Free Spoken Digit Dataset: short recordings of English digits at 8 kHz.

The current release has 3,000 recordings: each of 6 speakers spoke each digit 50 times. A file is
called `DIGIT_SPEAKER_INDEX.wav`, such as `7_jackson_32.wav`. The files are in the folder
`recordings` of https://github.com/Jakobovski/free-spoken-digit-dataset (Z. Jackson et al.,
CC BY-SA 4.0), which reserves the recordings with index 0 to 4 for testing.
"""

from __future__ import annotations

import io
import itertools
import pathlib
import re
import tarfile
import wave
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from sft_jax.data.records import DataFileError
from sft_jax.data.sets.av_mnist.idx import read_maybe_gzipped

SAMPLE_RATE = 8000  # Hz
DIGITS = tuple(range(10))

_FOLDER = "recordings"
_NAME = re.compile(r"([0-9])_([A-Za-z]+)_(0|[1-9][0-9]*)\.wav")


class SpokenDigit(NamedTuple):
    """One recording of one digit.

    Attributes:
      digit: Digit, 0 to 9.
      speaker: Name of the speaker.
      take: Number of the recording of this digit by this speaker, from 0; the INDEX of the file.
      samples: `[samples]` int16 at `SAMPLE_RATE`, not all 0.
    """

    digit: int
    speaker: str
    take: int
    samples: np.ndarray

    @property
    def name(self) -> str:
        """Returns the name of the file, without `.wav`."""
        return f"{self.digit}_{self.speaker}_{self.take}"


def find_spoken_digits(folder: pathlib.Path) -> pathlib.Path | None:
    """Finds the recordings in a folder or below it.

    Returns:
      A folder called `recordings` with at least one file named like a recording; or else an
      archive called `*free-spoken-digit-dataset*.tar.gz`; or else None.
    """
    folders = [folder, *folder.rglob(_FOLDER)]
    for path in sorted(path for path in folders if path.name == _FOLDER and path.is_dir()):
        if any(_NAME.fullmatch(file.name) for file in path.iterdir()):
            return path
    return min(folder.rglob("*free-spoken-digit-dataset*.tar.gz"), default=None)


def read_spoken_digits(path: pathlib.Path) -> list[SpokenDigit]:
    """Reads all recordings from a folder, or from an archive without unpacking it to disk.

    Args:
      path: Folder or archive, as `find_spoken_digits` returns it. In an archive, recordings lie
        in a folder called `recordings`. Files that do not end in `.wav` are ignored.

    Returns:
      The recordings, sorted by digit, speaker and take.

    Raises:
      DataFileError: If the archive or a file is damaged, or a file is silent. If the name, sample
        rate, sample width or channels of a file are wrong. Also if recordings are missing: each
        speaker must have spoken each digit equally often.
      OSError: If the path cannot be opened.
    """
    files = _folder_files(path) if path.is_dir() else _archive_files(path)
    recordings = sorted(
        (_recording(f"{path}: {name}", name, content) for name, content in files),
        key=lambda recording: recording[:3],
    )
    _check_complete(path, recordings)
    return recordings


def _folder_files(folder: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    for file in folder.iterdir():
        if _is_wav(file.name):
            yield file.name, file.read_bytes()


def _archive_files(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    # The archive is decompressed as a whole first, which verifies its checksum: `tarfile` alone
    # does not notice that an archive is cut short.
    content = read_maybe_gzipped(path)
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                inside = pathlib.PurePosixPath(member.name)
                if not (inside.parent.name == _FOLDER and _is_wav(inside.name)):
                    continue
                file = archive.extractfile(member) if member.isfile() else None
                if file is None:
                    raise DataFileError(f"{path}: {inside} is not a regular file")
                yield inside.name, file.read()
    except tarfile.TarError as error:
        raise DataFileError(f"{path} is a damaged archive: {error}") from error


def _is_wav(name: str) -> bool:
    # macOS adds files of its own that begin with a dot.
    return name.endswith(".wav") and not name.startswith(".")


def _recording(where: str, name: str, content: bytes) -> SpokenDigit:
    match = _NAME.fullmatch(name)
    if not match:
        raise DataFileError(f"{where} is not called DIGIT_SPEAKER_INDEX.wav")
    digit, speaker, index = match.groups()
    return SpokenDigit(int(digit), speaker, int(index), _samples(where, content))


def _samples(where: str, content: bytes) -> np.ndarray:
    try:
        with wave.open(io.BytesIO(content)) as file:
            form = (file.getnchannels(), 8 * file.getsampwidth(), file.getframerate())
            count = file.getnframes()
            data = file.readframes(count)
    except (wave.Error, EOFError) as error:
        raise DataFileError(
            f"{where} is not a PCM wav file: {str(error) or 'it ends early'}"
        ) from error
    if form != (1, 16, SAMPLE_RATE):
        raise DataFileError(
            f"{where}: {form[0]} channels of {form[1]} bits at {form[2]} Hz, expected 1 channel"
            f" of 16 bits at {SAMPLE_RATE} Hz"
        )
    if len(data) != 2 * count:
        raise DataFileError(f"{where} is cut short: {len(data) // 2} samples, expected {count}")
    samples = np.frombuffer(data, "<i2").astype(np.int16, copy=False)
    if not samples.any():
        raise DataFileError(f"{where}: no sound, all of its {count} samples are 0")
    return samples


def _check_complete(path: pathlib.Path, recordings: Iterable[SpokenDigit]) -> None:
    names = [recording.name for recording in recordings]
    if not names:
        raise DataFileError(f"{path} has no recordings {_FOLDER}/DIGIT_SPEAKER_INDEX.wav")
    if len(set(names)) < len(names):
        twice = next(name for name, after in itertools.pairwise(names) if name == after)
        raise DataFileError(f"{path} has the recording {twice}.wav twice")
    speakers = sorted({recording.speaker for recording in recordings})
    takes = range(1 + max(recording.take for recording in recordings))
    expected = itertools.product(DIGITS, speakers, takes)
    missing = sorted({f"{d}_{s}_{i}" for d, s, i in expected} - set(names))
    if missing:
        raise DataFileError(
            f"{path} lacks {len(missing)} of {len(names) + len(missing)} recordings, such as"
            f" {missing[0]}.wav: each of {', '.join(speakers)} must have said each digit"
            f" {len(takes)} times"
        )
