import gzip

import numpy as np
import pytest
from av_mnist_files import idx

from sft_jax.data.records import DataFileError
from sft_jax.data.sets.av_mnist.idx import read_idx

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "values-ubyte.gz"


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_numbers_of_every_type_come_back_packed_or_not(file, dtype, pack):
    values = VALUES.astype(dtype) - VALUES.dtype.type(3).astype(dtype) * (dtype != "u1")
    file.write_bytes(pack(idx(values)))
    read = read_idx(file)
    np.testing.assert_array_equal(read, values)
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative
    assert not read.flags.writeable


def test_a_set_without_examples_has_its_shape(file):
    file.write_bytes(idx(VALUES[:0]))
    assert read_idx(file).shape == (0, 3, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an idx file: it begins with nothing"),
        (b"\0\0\x08", "is not an idx file"),
        (b"\x89PNG" + bytes(40), "begins with 89 50 4e 47, expected 00 00"),
        (b"\0\0\x0a\x01" + bytes(8), "idx type 0a is not one of 08, 09, 0b"),
        (b"\0\0\x08\x00", "0 dimensions"),
        (idx(VALUES)[:15], "header of 3 dimensions, but 15 bytes"),
        (idx(VALUES)[:-1], "cut short: 39 bytes, expected 40 for 2 x 3 x 4 numbers of type uint8"),
        (idx(VALUES) + b"\0", "left over at its end: 41 bytes, expected 40"),
        (idx(VALUES.astype("f4"))[:-1], "cut short: 111 bytes, expected 112"),
    ],
)
def test_a_file_that_is_not_whole_is_named(file, content, message):
    for pack in (bytes, gzip.compress):
        file.write_bytes(pack(content))
        with pytest.raises(DataFileError, match=rf"values-ubyte\.gz.*{message}"):
            read_idx(file)


def test_a_damaged_gzip_stream_is_named(file):
    whole = gzip.compress(idx(VALUES))
    other_sum = whole[:-8] + bytes(4) + whole[-4:]
    for content in (whole[:-1], whole[:12], other_sum, whole[:3] + b"?" * 30, whole + b"?"):
        file.write_bytes(content)
        with pytest.raises(DataFileError, match=r"values-ubyte\.gz is a damaged gzip file: "):
            read_idx(file)
