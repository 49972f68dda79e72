"""Arrays in `.npz` files: their headers, and their values; nothing is unpickled."""

from __future__ import annotations

import pathlib
import zipfile
import zlib
from collections.abc import Container
from typing import NamedTuple

import numpy as np

from sft_jax.data.records import DataFileError


class Header(NamedTuple):
    """Header of an array in a `.npz` file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    checksum: int


# Errors that zipfile, zlib and numpy raise for damaged files.
_DAMAGE = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_headers(path: pathlib.Path) -> dict[str, Header]:
    """Reads the header of the array of each modality.

    Raises:
      DataFileError: If the file is missing or does not have the form that `np.savez` writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                info.filename.removesuffix(".npy"): _header(archive, info)
                for info in archive.infolist()
            }
    except FileNotFoundError as error:
        raise DataFileError("there is no such file") from error
    except _DAMAGE as error:
        raise DataFileError(f"it cannot be read as a .npz file: {error}") from error


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"{info.filename} has version {version} of the npy format")
        if not dtype.hasobject:
            size = file.tell() + dtype.itemsize * int(np.prod(shape, dtype=object))
            if size != info.file_size:
                raise ValueError(f"{info.filename} has {info.file_size} bytes, expected {size}")
    return Header(shape, dtype, info.CRC)


def read_arrays(path: pathlib.Path, names: Container[str] | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays of a `.npz` file, without those that are empty.

    Args:
      path: Path of the file.
      names: Names of the arrays; by default all.

    Raises:
      DataFileError: If the file is missing or damaged.
    """
    try:
        # NumPy would leave a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            chosen = [key for key in arrays.files if names is None or key in names]
            values = {key: arrays[key] for key in chosen}
    except _DAMAGE as error:
        raise DataFileError(f"{path} is damaged or gone: {error}") from error
    return {key: array for key, array in values.items() if array.size}
