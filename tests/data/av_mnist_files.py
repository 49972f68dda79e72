"""Tiny files of the formats that AV-MNIST is made of, written without any code of ours."""

import gzip
import io
import pathlib
import struct
import tarfile
import wave

import numpy as np

IDX_CODES = {"|u1": 8, "|i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}
ARCHIVE = "free-spoken-digit-dataset-9.9.tar.gz"


def idx(values):
    """The content of an idx file."""
    values = np.asarray(values)
    values = values.astype(values.dtype.newbyteorder(">"))
    header = struct.pack(">BBBB", 0, 0, IDX_CODES[values.dtype.str], values.ndim)
    return header + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def wav(samples, rate=8000, width=2, channels=1):
    """The content of a wav file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples).astype(f"<i{width}").tobytes())
    return buffer.getvalue()


def recordings(speakers=("ann", "bob"), count=12):
    """File name to content: a tone for each digit, of the length and loudness of each speaker."""
    return {
        f"{digit}_{speaker}_{index}.wav": wav(
            1000 * (1 + s) * np.sin((0.2 + 0.25 * digit) * np.arange(900 + 400 * s + 10 * index))
        )
        for digit in range(10)
        for s, speaker in enumerate(speakers)
        for index in range(count)
    }


def archive(files, parent="free-spoken-digit-dataset-9.9/recordings"):
    """The content of a tar.gz file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as file:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{parent}/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def images(count, seed=0):
    """Blobs at a place that the label gives, `[count, 28, 28]`, and labels from 0 to 9."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    rows, columns = np.mgrid[:28, :28]
    place = 6 + 4 * (labels % 5), 8 + 12 * (labels // 5)
    centre = np.stack(place, 1) + rng.normal(0, 1, (count, 2))
    distance = (rows - centre[:, 0, None, None]) ** 2 + (columns - centre[:, 1, None, None]) ** 2
    return np.uint8(255 * np.exp(-distance / 20)), np.uint8(labels)


def write(folder, train=36, test=7, packed=True, **options):
    """Writes four files of MNIST and an archive, or a folder, of recordings.

    Args:
      folder: where to.
      train: number of images for training and validation.
      test: number of images for testing.
      packed: whether the files are packed, as they are published.
      **options: of `recordings`.
    """
    folder = pathlib.Path(folder)
    (folder / "mnist").mkdir(parents=True)
    for name, count, seed in (("train", train, 0), ("t10k", test, 1)):
        pixels, labels = images(count, seed)
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            content = gzip.compress(idx(values), 1) if packed else idx(values)
            suffix = ".gz" if packed else ""
            (folder / "mnist" / f"{name}-{kind}-ubyte{suffix}").write_bytes(content)
    files = recordings(**options)
    if packed:
        (folder / ARCHIVE).write_bytes(archive(files))
        return
    (folder / "recordings").mkdir()
    for name, content in files.items():
        (folder / "recordings" / name).write_bytes(content)
