"""A digest of examples, to tell whether they are those that were seen before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOST_EXAMPLES = 2_000
"""Of more examples than these as many are read, evenly spread."""


def fingerprint(examples: Sequence[Mapping[str, Any]]) -> str:
    """The sha256 of ids, labels, values and masks of examples, in their order.

    Numbers are rounded to float32, and so is what a model is given of them.

    Args:
      examples: with `id`, `label`, `inputs` and perhaps `masks`.
    """
    found = hashlib.sha256(str(len(examples)).encode())
    for i in np.linspace(0, len(examples) - 1, min(len(examples), MOST_EXAMPLES)).astype(int):
        example = examples[int(i)]
        found.update(f"\n{example['id']}\n".encode())
        found.update(np.asarray(example["label"], np.float64).tobytes())
        for part, dtype in (("inputs", np.float32), ("masks", bool)):
            for name, values in sorted(example.get(part, {}).items()):
                found.update(f"\n{part} {name} {np.shape(values)}\n".encode())
                found.update(np.asarray(values, dtype).tobytes())
    return found.hexdigest()
