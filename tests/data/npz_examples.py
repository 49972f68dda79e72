"""Writes a small folder of the reader of `.npz` files, from which something can be learned."""

import csv
import json
import pathlib

import numpy as np

CLASSES = ("circle", "square", "star")


def write(folder, train=24, valid=6, test=6, seed=0):
    """Writes three modalities that tell the class, though not always.

    sound [4 to 9, 5] floats, image [28, 28, 1] bytes, and touch [6] float64, which every fourth
    example lacks. Classes take turns.

    Returns:
      The folder.
    """
    folder = pathlib.Path(folder)
    random = np.random.default_rng(seed)
    pitch = random.standard_normal((len(CLASSES), 5))
    rows = []
    for split, count in (("train", train), ("valid", valid), ("test", test)):
        for index in range(count):
            label = index % len(CLASSES)
            arrays = _example(random, label, pitch[label])
            if index % 4 == 3:
                del arrays["touch"]
            rows.append([f"{split}/{index:03d}.npz", split, CLASSES[label]])
            write_example(folder, rows[-1][0], **arrays)
    write_manifest(folder, rows)
    return folder


def _example(random, label, pitch):
    image = random.integers(0, 100, (28, 28, 1), np.uint8)
    image[9 * label : 9 * label + 9] += 100
    sound = pitch + 0.5 * random.standard_normal((random.integers(4, 10), len(pitch)))
    touch = label + random.standard_normal(6)
    return {"sound": sound.astype(np.float32), "image": image, "touch": touch}


def write_example(folder, file, **arrays):
    path = pathlib.Path(folder) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def write_manifest(folder, rows, header=("file", "split", "label")):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_labels(folder, labels, **description):
    """Examples of one modality with the labels of each split, and dataset.json if described."""
    rows = []
    for split, split_labels in labels.items():
        for label in split_labels:
            rows.append([f"{len(rows)}.npz", split, label])
            write_example(folder, rows[-1][0], x=np.ones((2, 3)))
    write_manifest(folder, rows)
    if description:
        (pathlib.Path(folder) / "dataset.json").write_text(json.dumps(description))
    return folder
