"""Digest of examples, by which a run recognises its data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOST_EXAMPLES = 2_000
"""Largest number of examples to read; a larger split is sampled at even intervals."""


def fingerprint(examples: Sequence[Mapping[str, Any]]) -> str:
    """Computes the sha256 of ids, labels, values and masks of examples, in their order.

    Numbers are rounded to float32, as they are for a model.

    Args:
      examples: Examples with `id`, `label`, `inputs` and optionally `masks`.
    """
    digest = hashlib.sha256(str(len(examples)).encode())
    for i in np.linspace(0, len(examples) - 1, min(len(examples), MOST_EXAMPLES)).astype(int):
        example = examples[int(i)]
        digest.update(f"\n{example['id']}\n".encode())
        digest.update(np.asarray(example["label"], np.float64).tobytes())
        for part, dtype in (("inputs", np.float32), ("masks", bool)):
            for name, values in sorted(example.get(part, {}).items()):
                digest.update(f"\n{part} {name} {np.shape(values)}\n".encode())
                digest.update(np.asarray(values, dtype).tobytes())
    return digest.hexdigest()
