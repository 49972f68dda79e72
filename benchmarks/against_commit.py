"""What a step costs beside that of another commit, on the same core, in turns.

python benchmarks/against_commit.py --other=COMMIT --json=benchmarks/results/against_commit.json

Each side is a process of its own, with the package of its commit; they live through the run and
take turns, so that what else the machine does falls on both. The settings of the shipped configs,
random examples of full length, one thread, CPU seconds. Both are compiled before anything is
measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]

_JSON = flags.DEFINE_string("json", None, "Where the result goes.")
_OTHER = flags.DEFINE_string("other", None, "Commit to compare with.")
_CONFIGS = flags.DEFINE_list("configs", ["vggsound", "mosei"], "Names of configs.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 4, "Examples of a step.", lower_bound=1)
_TURNS = flags.DEFINE_integer("turns", 5, "Turns that each side has.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 3, "Steps of a turn.", lower_bound=1)
_SIDE = flags.DEFINE_string("side", "", "Config of which this process is a side.")


def serve(name: str) -> None:
    """Compiles the programs of a config, then times the one that each line of the input names."""
    import dataclasses
    import importlib

    import jax
    import numpy as np

    from sft_jax import config_io
    from sft_jax.data.outline import outline
    from sft_jax.parallel import sharding
    from sft_jax.structs import Batch
    from sft_jax.training import assembly
    from sft_jax.training.step import compile_eval_step

    config = config_io.from_mapping(importlib.import_module(f"configs.{name}").get_config(None))
    data, size = outline(config.data), _BATCH_SIZE.value
    mesh, random = sharding.make_mesh(), np.random.default_rng(0)
    # Made for this size of batch, by which one CPU goes through the examples one by one.
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, batch_size=size, accumulate=1)
    )
    made = assembly.assemble_model(
        config, data.modalities, data.num_outputs, num_examples=1000 * size, mesh=mesh
    )
    specs = data.modalities.items()
    labels = random.integers(0, data.num_outputs, size)
    batch = sharding.put_batch(
        Batch(
            {n: random.standard_normal((size, *s.shape), np.float32) for n, s in specs},
            {n: np.ones((size, *s.lengths), bool) for n, s in specs},
            labels,
            np.ones(size, np.float32),
        ),
        mesh,
    )
    state, seed, positions = made.new_state(0), np.int32(0), np.arange(size, dtype=np.int32)
    train = made.step.lower(state, batch, seed).compile()
    infer = compile_eval_step(made.model, mesh).lower(state.params, batch, positions).compile()
    for line in sys.stdin:
        begin = time.process_time()
        for _ in range(_STEPS.value):
            if line.strip() == "train":
                state, metrics = train(state, batch, seed)
                jax.block_until_ready(metrics.loss)
            else:
                jax.block_until_ready(infer(state.params, batch, positions))
        print(json.dumps((time.process_time() - begin) / _STEPS.value), flush=True)


def _start(stack: contextlib.ExitStack, root: pathlib.Path, name: str) -> subprocess.Popen[str]:
    threads = "--xla_cpu_multi_thread_eigen=false"
    command = [sys.executable, __file__, f"--side={name}", f"--batch_size={_BATCH_SIZE.value}"]
    return stack.enter_context(
        subprocess.Popen(
            ["taskset", "--cpu-list", "0", *command, f"--steps={_STEPS.value}"],
            cwd=root,
            env={
                **os.environ,
                "PYTHONPATH": str(root),
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": threads,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )


def _ask(side: subprocess.Popen[str], work: str) -> float:
    assert side.stdin is not None
    assert side.stdout is not None
    side.stdin.write(f"{work}\n")
    side.stdin.flush()
    return json.loads(side.stdout.readline())


def compare(other: pathlib.Path, name: str) -> dict[str, Any]:
    """Seconds of a step by side, and the other's over this one's, turn by turn."""
    result: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        sides = {"this": _start(stack, ROOT, name), "other": _start(stack, other, name)}
        for work in ("train", "infer"):
            for side in sides.values():
                _ask(side, work)
            turns = [
                {n: _ask(side, work) for n, side in sides.items()} for _ in range(_TURNS.value)
            ]
            ratios = sorted(turn["other"] / turn["this"] for turn in turns)
            result[work] = {
                "median_seconds": {n: statistics.median(t[n] for t in turns) for n in sides},
                "other_over_this": {
                    "median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1],
                },
                "turns": turns,
            }  # fmt: skip
        for side in sides.values():
            assert side.stdin is not None
            side.stdin.close()
    return result


def main(_: list[str]) -> None:
    """Measures every config and writes after each."""
    if _SIDE.value:
        serve(_SIDE.value)
        return
    if not (_JSON.value and _OTHER.value):
        raise app.UsageError("--json and --other are needed")
    sys.path[:0] = [str(ROOT)]
    from benchmarks.summaries import environment, write

    result = {**environment(), "other": _OTHER.value, "batch_size": _BATCH_SIZE.value}
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", _OTHER.value], cwd=ROOT, check=True, stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        for name in _CONFIGS.value:
            result[name] = compare(pathlib.Path(folder), name)
            print(name, json.dumps(result[name]), flush=True)
            write(pathlib.Path(_JSON.value), result)


if __name__ == "__main__":
    app.run(main)
