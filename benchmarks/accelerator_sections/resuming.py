"""Bits of a run that is stopped and resumed against those of a run without a break.

The first of two processes takes all steps and saves a checkpoint half way. The second restores it
and takes the rest. XLA must be deterministic, or each process may choose other kernels.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator_sections import reporting, synthetic
from sft_jax.runs.checkpoint import Checkpoints


def take_steps(request: dict[str, Any]) -> None:
    """Takes the steps of one of the two processes.

    Args:
      request: `name` of the row; `config`, `argument` and `changes` of
        `synthetic.load_config`; `steps`, their number in total; `folder` of the checkpoints;
        `restore`, true in the second process.
    """
    name, kind = request["name"], "resumed" if request["restore"] else "whole"
    with reporting.row(name, f"{kind}_"):
        config = synthetic.load_config(request["config"], request["argument"], request["changes"])
        mesh = synthetic.one_device_mesh()
        assembled = synthetic.assemble(config, mesh)
        batches = [synthetic.batch(config, mesh, seed=i) for i in range(4)]
        state, half = assembled.new_state(config.seed), request["steps"] // 2
        checkpoints = Checkpoints(request["folder"], read_only=request["restore"])
        if request["restore"]:
            like = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state
            )
            state, _ = checkpoints.restore("latest", like)
        for i in range(int(state.step), request["steps"]):
            if i == half and not request["restore"]:
                checkpoints.save("latest", state, {})
                checkpoints.wait()
            state, metrics = assembled.step(state, batches[i % len(batches)], np.int32(config.seed))
        reporting.emit(
            name,
            **{
                f"{kind}_sha256": _digest(state),
                f"{kind}_loss": float(metrics.loss),
                "steps": request["steps"],
                "steps_counted": int(state.step),
                "xla_flags": os.environ.get("XLA_FLAGS", ""),
                "config": f"configs/{request['config']}.py:{request['argument'] or ''}",
                "changes": request["changes"],
            },
        )


def _digest(state: Any) -> str:
    """Sha256 over all arrays of a state, their types and shapes."""
    digest = hashlib.sha256()
    for path, array in jax.tree_util.tree_leaves_with_path(state):
        values = np.asarray(array)
        digest.update(f"{jax.tree_util.keystr(path)} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    reporting.run(take_steps)
