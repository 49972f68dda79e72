"""What the results of the benchmarks have in common: among other things, which code made them."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import sys
from typing import Any

import jax
import numpy as np

from sft_jax import version


def environment() -> dict[str, Any]:
    """What ran, and on what; `code` and `versions` are those of `sft_jax.version.environment`."""
    return {
        "command": " ".join(sys.argv),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}",
        **version.environment(),
    }


def summary(results: list[dict[str, float]]) -> dict[str, object]:
    """Mean and sample deviation over runs, with what they are of."""
    accuracies = [result["accuracy"] for result in results]
    return {
        "accuracy_mean": float(np.mean(accuracies)),
        "accuracy_std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        "accuracies": accuracies,
        "n_examples": [result["n_examples"] for result in results],
    }


def write(path: pathlib.Path, result: dict[str, Any]) -> None:
    """Writes a result as JSON, whole or not at all.

    Raises:
      ValueError: if it does not say which code made it.
    """
    if "digest" not in result.get("code", {}):
        raise ValueError(f"{path}: a result needs `code`, as `environment` has it")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(partial, path)
