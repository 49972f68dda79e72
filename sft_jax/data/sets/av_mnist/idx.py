"""The idx format of MNIST and its drop-in replacements.

A file begins with four bytes: 0, 0, a code for the type of the numbers, and the number of
dimensions. The size of each dimension follows in four bytes, then the numbers. Everything is
big-endian.
"""

from __future__ import annotations

import gzip
import math
import pathlib
import struct
import zlib

import numpy as np

from sft_jax.data.records import DataFileError

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: pathlib.Path) -> np.ndarray:
    """Reads an idx file, compressed with gzip or not, whatever its file extension.

    Returns:
      A read-only array of the file's shape and type, in the byte order of this machine.

    Raises:
      DataFileError: If the file is not an idx file, its length contradicts its header, or its
        gzip stream is damaged.
      OSError: If the file cannot be opened.
    """
    content = read_maybe_gzipped(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataFileError(
            f"{path} is not an idx file: it begins with {content[:4].hex(' ') or 'nothing'},"
            " expected 00 00, a type and the number of dimensions"
        )
    code, ndim = content[2:4]
    if code not in _DTYPES:
        allowed = ", ".join(f"{known:02x}" for known in _DTYPES)
        raise DataFileError(f"{path}: idx type {code:02x} is not one of {allowed}")
    start = 4 + 4 * ndim
    if not ndim or len(content) < start:
        raise DataFileError(
            f"{path}: an idx header of {ndim} dimensions, but {len(content)} bytes in all"
        )
    shape = struct.unpack(f">{ndim}I", content[4:start])
    dtype = np.dtype(_DTYPES[code])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        fault = "is cut short" if len(content) < expected else "has bytes left over at its end"
        raise DataFileError(
            f"{path} {fault}: {len(content)} bytes, expected {expected} for"
            f" {' x '.join(map(str, shape))} numbers of type {dtype.name}"
        )
    values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    values = values.astype(dtype.newbyteorder("="), copy=False)
    values.flags.writeable = False
    return values


def read_maybe_gzipped(path: pathlib.Path) -> bytes:
    """Reads the bytes of a file, and decompresses them if the file begins like a gzip file.

    Raises:
      DataFileError: If the gzip stream is damaged or cut short.
      OSError: If the file cannot be opened.
    """
    content = path.read_bytes()
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataFileError(f"{path} is a damaged gzip file: {error}") from error
