"""Splits of the raw files of AV-MNIST: idx files of MNIST, and spoken digits."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sft_jax.data.records import DataFileError
from sft_jax.data.sets.av_mnist.idx import read_idx
from sft_jax.data.sets.av_mnist.options import SIZE
from sft_jax.data.sets.av_mnist.spoken_digits import (
    DIGITS,
    SpokenDigit,
    find_spoken_digits,
    read_spoken_digits,
)

_VALID_SHARE = 12  # One training image in 12 is for validation.
_RECORDINGS = {"test": range(5), "valid": range(5, 10)}  # By index; the rest is for training.
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


class Split(NamedTuple):
    """Images and recordings of a split; `first` is the index of its first image in the file."""

    images: np.ndarray
    labels: np.ndarray
    first: int
    recordings: list[SpokenDigit]


def is_mnist(name: str) -> bool:
    """Returns whether a name is the name of an image file of MNIST, or of its folder."""
    return "idx3-ubyte" in name or name == "mnist"


def find_files(folder: pathlib.Path) -> tuple[dict[tuple[str, str], pathlib.Path], pathlib.Path]:
    """Finds the four files of MNIST, and the folder or archive of recordings.

    Raises:
      DataFileError: If files are missing; the message gives the name and source of each.
    """
    if not folder.is_dir():
        raise DataFileError(f"there is no folder {folder}")
    paths = {key: _find_mnist(folder, name) for key, name in _MNIST_FILES.items()}
    speech = find_spoken_digits(folder)
    missing = [
        f"{_MNIST_FILES[key]}[.gz] from {_MNIST_SOURCES}" for key, path in paths.items() if not path
    ]
    if not speech:
        missing.append(
            "*free-spoken-digit-dataset*.tar.gz, or its folder recordings with"
            f" DIGIT_SPEAKER_INDEX.wav, from {_SPEECH_SOURCE}"
        )
    if missing or not speech:
        raise DataFileError("\n  ".join([f"{folder} and its subfolders lack:", *missing]))
    return {key: path for key, path in paths.items() if path}, speech


def _find_mnist(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    names = {name, name.replace("-idx", ".idx")}  # Both spellings are in use.
    names |= {f"{unpacked}.gz" for unpacked in names}
    paths = sorted(path for path in folder.rglob(f"{name[:12]}*") if path.name in names)
    parents = {path.parent for path in paths}
    if len(parents) > 1:
        raise DataFileError(
            f"{name} is in more than one folder, and may be of other images than MNIST's there:"
            f" {', '.join(map(str, sorted(parents)))}; give a folder that has it once"
        )
    return paths[0] if paths else None


def read_splits(
    files: Mapping[tuple[str, str], pathlib.Path], speech: pathlib.Path
) -> dict[str, Split]:
    """Reads all images and recordings, and holds out some of both for validation and test."""
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
        "train": Split(images[:first], labels[:first], 0, spoken["train"]),
        "valid": Split(images[first:], labels[first:], first, spoken["valid"]),
        "test": Split(*test, 0, spoken["test"]),
    }


def _read_images(
    images_path: pathlib.Path, labels_path: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dtype != np.uint8 or images.shape[1:] != (SIZE, SIZE) or not len(images):
        raise DataFileError(
            f"{images_path} holds {images.dtype} of shape {images.shape}, expected uint8 of shape"
            f" (images, {SIZE}, {SIZE})"
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
