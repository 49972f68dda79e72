"""Writes files of any size in the formats of MulT and MMSA for CMU-MOSI and CMU-MOSEI.

    write(path, "mosei", "mult_noalign", {"train": 16265, "valid": 1869, "test": 4643}, seed=0)

The numbers are random; everything else is as in the real files. Keys, their order, shapes, dtypes
and the side of the padding are theirs. So are -inf in the audio, zero steps in the middle, and some
examples without vision. Only a few examples are in memory at once. `examples` yields the examples
that a reader should return.
"""

import functools
import pickle
import struct

import numpy as np

VARIANTS = ("mult_aligned", "mult_noalign", "mmsa_aligned", "mmsa_unaligned")
DATASETS = ("mosei", "mosi")
MODALITIES = ("vision", "audio", "text")

_FEATURES = {"mosei": (35, 74, 300), "mosi": (20, 5, 300)}
_BERT = 768


def steps(dataset, variant):
    """Modality to the number of steps, with padding."""
    audio = 500 if dataset == "mosei" else 375
    lengths = (50, 50, 50) if variant.endswith("_aligned") else (500, audio, 50)
    return dict(zip(MODALITIES, lengths, strict=True))


def features(dataset, variant):
    """Modality to the number of features."""
    sizes = dict(zip(MODALITIES, _FEATURES[dataset], strict=True))
    return {**sizes, "text": _BERT} if variant.startswith("mmsa") else sizes


def dtypes(dataset, variant):
    """Modality to its dtype, inferred from the published sizes (12 GB, 3.5 GB, 326 MB)."""
    if variant.startswith("mmsa") or (dataset, variant) == ("mosi", "mult_noalign"):
        return {"vision": "f8", "audio": "f8", "text": "f4"}
    return dict.fromkeys(MODALITIES, "f8" if dataset == "mosei" else "f4")


def _rng(seed, split, row, *purpose):
    return np.random.default_rng([seed, ("train", "valid", "test").index(split), row, *purpose])


@functools.lru_cache(maxsize=4096)
def _lengths(dataset, variant, seed, split, row):
    """Modality to real steps; every 7th example has no padding, and every 5th no vision."""
    rng = _rng(seed, split, row)
    longest = steps(dataset, variant)
    share = 1.0 if row % 7 == 6 else rng.uniform(0.1, 0.9)
    lengths = {name: max(3, round(share * length)) for name, length in longest.items()}
    if not variant.endswith("_aligned") and row % 5 == 4:
        lengths["vision"] = 0
    return lengths


def _values(dataset, variant, seed, split, row, name):
    """The real steps of a modality, without padding."""
    length = _lengths(dataset, variant, seed, split, row)[name]
    size = features(dataset, variant)[name]
    rng = _rng(seed, split, row, 1 + MODALITIES.index(name))
    values = rng.standard_normal((length, size), np.float32)
    values[:, 0] = 1  # So that no step but those below is zero.
    if name == "audio" and length:
        values[length // 2, -1] = -np.inf
    if name != "text" and length > 4 and row % 3 == 1:
        values[length // 3] = 0
    if variant.endswith("_aligned") and name == "vision" and row % 5 == 4:
        values[:] = 0
    if variant == "mmsa_aligned" and name != "text":
        values[[0, -1]] = 0  # [CLS] and [SEP]
    return values.astype(dtypes(dataset, variant)[name])


def _label(seed, split, row):
    return np.float32(_rng(seed, split, row, 9).integers(-9, 10)) / np.float32(3)


def _id(dataset, variant, split, row):
    """Identifier of an example in the form of the file."""
    video = f"{split}{row // 3}"
    if variant.startswith("mmsa"):
        return f"{video}$_${row % 3}"
    parts = [video, f"{row % 3}.5", f"{row % 3 + 1}.25"]
    return [f"{video}_{row % 3}", *parts[1:]] if dataset == "mosi" else parts


def examples(dataset, variant, split, count, seed=0):
    """Yields id, inputs and label of each example, as a reader should return them."""
    for row in range(count):
        inputs = {}
        for name in MODALITIES:
            values = _values(dataset, variant, seed, split, row, name)
            if (values != 0).any():
                inputs[name] = values
        name = _id(dataset, variant, split, row)
        yield {
            "id": name if isinstance(name, str) else "_".join(name),
            "inputs": inputs,
            "label": np.array([_label(seed, split, row)], np.float32),
        }


def _padded(dataset, variant, seed, split, row, name):
    length = steps(dataset, variant)[name]
    values = _values(dataset, variant, seed, split, row, name)
    padded = np.zeros((length, values.shape[1]), values.dtype)
    if variant.startswith("mult"):
        padded[length - len(values) :] = values
    else:
        if name == "text":
            padded[:] = 0.5  # BERT has outputs for padding too.
        padded[: len(values)] = values
    return padded


def _first_zero(dataset, variant, seed, split, row, name):
    """Length of an example as MMSA's getLengths.py computes it."""
    padded = _padded(dataset, variant, seed, split, row, name)
    zero = np.flatnonzero(~(padded != 0).any(axis=1))
    return max(1, int(zero[0])) if len(zero) else len(padded)


def _text_bert(dataset, variant, seed, split, count):
    length = steps(dataset, variant)["text"]
    values = np.zeros((count, 3, length), np.int64)
    for row in range(count):
        real = _lengths(dataset, variant, seed, split, row)["text"]
        values[row, 0, :real] = [101, *range(1000, 998 + real), 102]
        values[row, 1, :real] = 1
    return values


def _ids(dataset, variant, split, count):
    ids = [_id(dataset, variant, split, row) for row in range(count)]
    if variant.startswith("mult"):
        return np.array(ids, "S" if dataset == "mosi" else "U")
    return ids


def _small_values(dataset, variant, seed, split, count):
    """Key to its value, for all keys other than the modalities."""
    labels = np.array([_label(seed, split, row) for row in range(count)], np.float32)
    ids = _ids(dataset, variant, split, count)
    if variant.startswith("mult"):
        return {"labels": labels.reshape(count, 1, 1), "id": ids}
    names = np.array(["Negative", "Neutral", "Positive"])
    signs = np.sign(labels).astype(int) + 1
    values = {
        "raw_text": np.array([f"words of {name}" for name in ids]),
        "id": ids,
        "text_bert": _text_bert(dataset, variant, seed, split, count),
        "annotations": names[signs].tolist(),
        "classification_labels": signs.astype(np.float64),
        "regression_labels": labels.astype(np.float64),
    }
    if variant == "mmsa_unaligned":
        for name in ("audio", "vision"):
            values[f"{name}_lengths"] = [
                _first_zero(dataset, variant, seed, split, row, name) for row in range(count)
            ]
    return values


def _embedded(value):
    """Instructions for a value, without those for the start and end of a pickle."""
    return pickle.dumps(value, 3)[2:-1]


def _array_head(dtype, shape, size):
    """Instructions before the bytes of an array of `size` bytes."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
        + b"(K\x01("
        + b"".join(b"J" + struct.pack("<i", length) for length in shape)
        + b"tcnumpy\ndtype\n(X\x02\x00\x00\x00%sK\x00K\x01tR(K\x03X\x01\x00\x00\x00<" % dtype
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89\x8e"
        + struct.pack("<Q", size)
    )


def _write_features(file, dataset, variant, seed, split, count, name):
    dtype = dtypes(dataset, variant)[name]
    shape = (count, steps(dataset, variant)[name], features(dataset, variant)[name])
    size = int(np.prod(shape, dtype=np.int64)) * int(dtype[1])
    file.write(_array_head(dtype.encode(), shape, size))
    for row in range(count):
        file.write(_padded(dataset, variant, seed, split, row, name).tobytes())
    file.write(b"tb")


def write(path, dataset, variant, counts, seed=0):
    """Writes a file with `counts[split]` examples in each split, in the order of `counts`."""
    with open(path, "wb") as file:
        file.write(b"\x80\x04}")
        for split, count in counts.items():
            file.write(_embedded(split) + b"}")
            for name in MODALITIES:
                file.write(_embedded(name))
                _write_features(file, dataset, variant, seed, split, count, name)
                file.write(b"s")
            for key, value in _small_values(dataset, variant, seed, split, count).items():
                file.write(_embedded(key) + _embedded(value) + b"s")
            file.write(b"s")
        file.write(b".")
