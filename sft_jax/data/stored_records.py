"""Lossless storage of records: TFDS features for ragged arrays.

An example has `id`, `label` and, for each modality, `shape`, `value` and `mask`. The shape is
`[length, ..., features]`, and the length is 0 where the example lacks the modality. `value` holds
the bytes of the numbers in C order: uint8, little-endian float32, or float64 if float32 cannot
represent them all. `mask` holds one byte per step if there are gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from sft_jax.data.records import Record
from sft_jax.structs import CLASS_TASKS, Task

_DTYPES: Mapping[int, np.dtype[Any]] = {  # Bytes per number to dtype.
    1: np.dtype("u1"),
    4: np.dtype("<f4"),
    8: np.dtype("<f8"),
}


def features(ranks: Mapping[str, int], task: Task) -> Any:
    """Makes the TFDS features of a record.

    Args:
      ranks: Modality name to the number of axes of `[length, ..., features]`.
      task: Kind of the labels.
    """
    one_class = tfds.features.Scalar(np.int64)
    numbers = tfds.features.Tensor(shape=(None,), dtype=np.float32)
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "label": one_class if task in CLASS_TASKS else numbers,
            **{
                # TFDS stores a tensor of unknown shape in the same way, but can't read a tensor
                # with fewer bytes than axes.
                name: {
                    "shape": tfds.features.Tensor(shape=(rank,), dtype=np.int32),
                    "value": _bytes(),
                    "mask": _bytes(),
                }
                for name, rank in ranks.items()
            },
        }
    )


def encode(record: Record, ranks: Mapping[str, int], task: Task) -> dict[str, Any]:
    """Converts a record, with inputs in a dtype of `cleaning.as_stored`, to a stored example."""
    inputs = {}
    for name, rank in ranks.items():
        values = record["inputs"].get(name, np.zeros((0,) * rank))
        mask = record.get("masks", {}).get(name, np.zeros(0, bool))
        inputs[name] = {
            "shape": np.array(values.shape, np.int32),
            "value": _as_bytes(values),
            "mask": _as_bytes(mask),
        }
    label = record["label"]
    if task not in CLASS_TASKS:
        label = np.asarray(label, np.float32)
    return {"id": record["id"], "label": label, **inputs}


def decode(example: Mapping[str, Any], modalities: Iterable[str], task: Task) -> Record:
    """Converts a stored example to a record with the given modalities."""
    stored = {name: example[name] for name in modalities if example[name]["shape"][0]}
    record = Record(
        id=example["id"].decode(),
        inputs={name: _array(parts) for name, parts in stored.items()},
        label=int(example["label"]) if task in CLASS_TASKS else example["label"],
    )
    masks = {
        name: parts["mask"].astype(bool).reshape(parts["shape"][:-1])
        for name, parts in stored.items()
        if len(parts["mask"])
    }
    return Record(**record, masks=masks) if masks else record


def _bytes() -> Any:
    return tfds.features.Tensor(shape=(None,), dtype=np.uint8, encoding="bytes")


def _as_bytes(values: np.ndarray) -> np.ndarray:
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return np.frombuffer(little.tobytes(), np.uint8)


def _array(stored: Mapping[str, np.ndarray]) -> np.ndarray:
    shape = stored["shape"]
    size = int(np.prod(shape, dtype=np.int64))
    dtype = _DTYPES[len(stored["value"]) // size]
    return stored["value"].view(dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
