"""Identity of a trained model, recorded by runs that begin with its parameters."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import flax.traverse_util
import numpy as np

from sft_jax.inference.classifier import Classifier
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory


def origin(path: str, classifier: Classifier) -> dict[str, Any]:
    """Describes where the parameters of a classifier come from.

    Args:
      path: Run directory or exported folder that `classifier` was loaded from.
      classifier: Loaded model.

    Returns:
      JSON values:

      - `path`, the argument;
      - `parameters`, ema or trained for those of a run, exported for those of a folder;
      - `step`, the step of the checkpoint, None for a folder;
      - `code`, the value of `sft_jax.version.code` in the last start of the run, or in the export;
      - `digest`, the value of `params_digest`.
    """
    run = RunDirectory(storage.as_path(path))
    saved = json.loads(run.config_file.read_text())
    if "format_version" in saved:
        kind, step, code = "exported", None, saved.get("code")
    else:
        config, starts = run.read_config(data=False), run.read_starts()
        kind = "ema" if config.train.ema_decay > 0 else "trained"
        step, code = classifier.step, starts[-1]["code"] if starts else None
    return {
        "path": path,
        "parameters": kind,
        "step": step,
        "code": code,
        "digest": params_digest(classifier.params),
    }


def params_digest(params: Any) -> str:
    """Computes the sha256 of names, types, shapes and values of parameters, as `sha256:...`."""
    digest = hashlib.sha256()
    for name, array in sorted(flax.traverse_util.flatten_dict(params, sep="/").items()):
        value = np.ascontiguousarray(array)
        digest.update(f"{name}\0{value.dtype}\0{value.shape}\0".encode() + value.tobytes())
    return f"sha256:{digest.hexdigest()}"
