"""Writes feature files of VGGSound in the authors' format, of made-up numbers."""

import pathlib

import h5py
import numpy as np

SHAPES = {"rgb": (38, 1024), "spect": (1200, 128), "flow": (38, 1024)}
EXAMPLE_BYTES = 4 * sum(np.prod(shape) for shape in SHAPES.values())  # 0.93 MB


def class_names(count):
    """Makes up names that are not in the order of the alphabet."""
    return [f"sound_{index * 7 % 101:03d}" for index in range(count)]


def write(folder, classes=3, train=12, test=6, seed=0, **storage):
    """Writes the two files, row by row, so that any number of rows fits into memory.

    Every class has a pattern in each modality, which noise of the same size hides. Classes take
    turns, in a random order.

    Args:
      folder: Folder of the files; made if it does not exist.
      classes: Number of classes, or their names. The files of 100 classes are named vgg100_*,
        others vgg_*.
      train: Number of rows for training.
      test: Number of rows for testing.
      seed: Seed of names, patterns and noise.
      **storage: Options of h5py for the features, such as chunks or compression.

    Returns:
      Paths of both files.
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
    """Writes the class name and the label of each row."""
    file["class_name"] = np.array([name.encode() for name in names], "S")
    file["labels"] = np.asarray(labels, np.int64)[:, None]


def write_empty(path, names):
    """Writes a file whose features are all 0 and take no room on disk."""
    with h5py.File(path, "w") as file:
        write_names(file, names, np.zeros(len(names)))
        for key, shape in SHAPES.items():
            file.create_dataset(key, (len(names), *shape), np.float32)
