"""Writes files in the format of HAPT: recordings of made-up numbers, one for each person.

    write(folder, samples=400)

Names, columns and numbering are as in the real files. Recording and person have the same number.
"""

import io
import pathlib
import tarfile

import numpy as np

PEOPLE = 30
GAP = 20
"""Number of samples without a label, at the start of a recording and after each segment."""


def values(number, sensor, samples):
    """The numbers of a sensor, `[samples, 3]` float64, which fall into 0.001 g or rad/s."""
    rng = np.random.default_rng([number, ("acc", "gyro").index(sensor)])
    return rng.integers(-2000, 2000, (samples, 3)) / 1000


def segments(number, samples):
    """Rows of activity, first and last sample, from 1; the activities follow one another."""
    rows, first, activity = [], GAP + 1, number - 1
    while first + 40 <= samples:
        length = 40 + 60 * (activity % 2)
        rows.append((activity % 12 + 1, first, min(first + length - 1, samples)))
        first += length + GAP
        activity += 1
    return rows


def texts(samples=400):
    """File name to its text."""
    files, lines = {}, []
    for number in range(1, PEOPLE + 1):
        for sensor in ("acc", "gyro"):
            rows = values(number, sensor, samples)
            name = f"{sensor}_exp{number:02d}_user{number:02d}.txt"
            files[name] = "".join(" ".join(map(repr, row)) + "\n" for row in rows.tolist())
        lines += [f"{number} {number} {a} {b} {c}\n" for a, b, c in segments(number, samples)]
    return files | {"labels.txt": "".join(lines)}


def write(folder, samples=400, packed=False):
    """Writes the folder RawData, or RawData.tar.xz of it.

    Args:
      folder: where to.
      samples: number of samples of each recording.
      packed: whether to write the archive.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = texts(samples)
    if not packed:
        (folder / "RawData").mkdir()
        for name, text in files.items():
            (folder / "RawData" / name).write_text(text)
        return
    with tarfile.open(folder / "RawData.tar.xz", "w:xz", preset=0) as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"RawData/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
