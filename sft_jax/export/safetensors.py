"""Export as a folder of the hub's layout, which `sft_jax.load` reads."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from sft_jax.export import layout, written
from sft_jax.export import safetensors_folder as folders
from sft_jax.export.model_card import model_card
from sft_jax.export.program import raw_program
from sft_jax.export.written import Classifier, Written
from sft_jax.runs import storage


def write(
    classifier: Classifier,
    path: str | os.PathLike[str],
    *,
    k: int | Mapping[str, int] | None = None,
    quantize: str | None = None,
) -> Written:
    """Writes a folder; see `sft_jax.export.write`.

    Raises:
      ValueError: If the model has attributes that no config has.
    """
    classifier = written.with_k(classifier, k)
    config = written.metadata(classifier, "safetensors")
    config["config"] = folders.model_config(classifier.model)
    flat = folders.flat_params(classifier.params)
    folder = pathlib.Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    # The hub shows weights of this format as those of JAX.
    weights = safetensors.numpy.save(flat, metadata={"format": "flax"})
    storage.write_whole(folder / layout.WEIGHTS, weights)
    storage.write_whole(folder / layout.CONFIG, json.dumps(config, indent=2) + "\n")
    count = sum(array.size for array in flat.values())
    storage.write_whole(folder / layout.CARD, model_card(classifier.info, config, count))
    return read(folder)


def read(path: str | os.PathLike[str]) -> Written:
    """Opens a folder; see `sft_jax.export.read`."""
    folder = pathlib.Path(path)
    program = jax.jit(raw_program(folders.read(folder)))

    def run(
        inputs: dict[str, np.ndarray], masks: dict[str, np.ndarray], k: dict[str, int] | None
    ) -> Any:
        return program(inputs, masks)

    return Written(folder, layout.read_config(folder), run)
