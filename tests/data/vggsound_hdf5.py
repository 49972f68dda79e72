"""Writes feature files of VGGSound in the authors' format, of made-up numbers."""

import pathlib

import h5py
import numpy as np

SHAPES = {"rgb": (38, 1024), "spect": (1200, 128), "flow": (38, 1024)}
EXAMPLE_BYTES = 4 * sum(np.prod(shape) for shape in SHAPES.values())  # 0.93 MB


def class_names(count):
    """Made-up names, not in the order of the alphabet."""
    return [f"sound_{index * 7 % 101:03d}" for index in range(count)]


def write(folder, classes=3, train=12, test=6, seed=0, **storage):
    """Writes the two files, row by row, so that any number of rows fits into memory.

    Every class has a pattern of its own in each modality, which noise of the same size hides.

    Args:
      folder: is made if need be.
      classes: how many, or their names; with 100 the files are called vgg100_*, else vgg_*.
      train, test: number of rows. Classes take turns, in a random order.
      seed: of everything random.
      storage: how h5py stores the features, such as chunks or compression.

    Returns:
      The paths of both files.
    """
    names = class_names(classes) if isinstance(classes, int) else list(classes)
    prefix = "vgg100" if len(names) == 100 else "vgg"
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"{prefix}_{split}.h5py" for split in ("train", "test"))
    patterns = np.random.default_rng(seed)
    centres = {
        key: patterns.standard_normal((len(names), features), np.float32)
        for key, (_, features) in SHAPES.items()
    }
    for path, count in zip(paths, (train, test), strict=True):
        random = np.random.default_rng([seed, count, path == paths[0]])
        labels = random.permutation(np.arange(count) % len(names))
        with h5py.File(path, "w") as file:
            write_names(file, [names[label] for label in labels], labels)
            for key, shape in SHAPES.items():
                features = file.create_dataset(key, (count, *shape), np.float32, **storage)
                for row, label in enumerate(labels):
                    noise = random.standard_normal(shape, np.float32)
                    features[row] = centres[key][label] + noise
    return paths


def write_names(file, names, labels):
    file["class_name"] = np.array([name.encode() for name in names], "S")
    file["labels"] = np.asarray(labels, np.int64)[:, None]


def write_empty(path, names):
    """A file whose features are all 0 and take no room on disk, however many."""
    with h5py.File(path, "w") as file:
        write_names(file, names, np.zeros(len(names)))
        for key, shape in SHAPES.items():
            file.create_dataset(key, (len(names), *shape), np.float32)
