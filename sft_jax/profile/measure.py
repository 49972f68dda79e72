"""What a model costs: counted from its jaxpr, and measured in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sft_jax import config_io
from sft_jax.config import ExperimentConfig
from sft_jax.data.outline import Outline
from sft_jax.modules.factory import build_model
from sft_jax.parallel import sharding
from sft_jax.profile import flops, process_memory
from sft_jax.structs import CLASS_TASKS, Batch, ModalitySpec, Task
from sft_jax.training import assembly
from sft_jax.training.step import compile_eval_step

MEASURED = (
    "train_lowering_seconds",
    "train_compile_seconds",
    "train_temp_bytes",
    "train_bytes_accessed_xla",
    "idle_rss_bytes",
    "train_peak_rss_bytes",
    "train_peak_device_bytes",
    "train_step_seconds",
    "forward_bytes_accessed_xla",
    "latency_seconds",
    "examples_per_second",
    "device",
)
"""What `measure` gives, in this order."""

_STEPS_OF_AN_EPOCH = 1000
_LEAST_SECONDS = 0.5


def count(config: ExperimentConfig, outline: Outline) -> dict[str, Any]:
    """Counts what one example takes in evaluation; computes nothing.

    Args:
      config: of the experiment.
      outline: of the data.

    Returns:
      As JSON values `parameters`; `forward_flops`, those of matrix products alone, as they are
      counted in the literature, and `stage_flops` for each of `sft_jax.profile.flops.STAGES`,
      which add up to them; `forward_elementwise_flops` and `stage_elementwise_flops`, all other
      arithmetic.

    Raises:
      ValueError: if the model of the config is not one for such data.
    """
    model = build_model(config.model, outline.modalities, outline.num_outputs)
    stages = flops.forward_stages(model)
    total = flops.total(stages)
    return {
        "parameters": flops.num_parameters(model),
        "forward_flops": total.matmul_flops,
        "stage_flops": {stage: of.matmul_flops for stage, of in stages.items()},
        "forward_elementwise_flops": total.elementwise_flops,
        "stage_elementwise_flops": {stage: of.elementwise_flops for stage, of in stages.items()},
    }


def measure(
    config: ExperimentConfig, outline: Outline, *, batch_sizes: Sequence[int], steps: int
) -> dict[str, Any]:
    """Compiles and runs the model of a config, in a new process, on one device.

    The input is random, of full length; a training step is that of `train.py`, with the
    config's batch size and optimiser, and mixes examples from the first on if the config mixes
    any.

    Args:
      config: of the experiment.
      outline: of the data.
      batch_sizes: those that inference is timed at, beside 1.
      steps: training steps that are timed, and least number of runs of inference, after one
        each that is not.

    Returns:
      As JSON values, null where the system does not tell:

      - `train_lowering_seconds`, of tracing and lowering the training step, and
        `train_compile_seconds`, of XLA, with nothing cached;
      - `train_temp_bytes`, what XLA plans for intermediate results of the step, and
        `train_bytes_accessed_xla` and (at batch size 1) `forward_bytes_accessed_xla`, its
        estimates of what is read and written, which count the body of a loop once;
      - `idle_rss_bytes`, resident after compilation with state and batch in place, and
        `train_peak_rss_bytes`, by how much the resident set grew beyond it in the first step;
      - `train_peak_device_bytes`, the same of an accelerator's own memory. There the most so
        far can't be reset, so that it may be from before the step;
      - `train_step_seconds`, the median;
      - `latency_seconds`, the median at batch size 1, and `examples_per_second` by batch size;
      - `device`, what it ran on.

    Raises:
      ChildProcessError: if the process fails; it has then said why on stderr.
    """
    request = {
        "config": config_io.to_json(config),
        "modalities": {name: dataclasses.asdict(s) for name, s in outline.modalities.items()},
        "outputs": outline.num_outputs,
        "task": config.model.task,
        "batch_sizes": sorted({1, *batch_sizes}),
        "steps": steps,
    }
    package = str(pathlib.Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "sft_jax.profile.measure"],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "JAX_ENABLE_COMPILATION_CACHE": "false"},
    )
    if done.returncode:
        raise ChildProcessError(
            f"measuring {config.model.name} ended with status {done.returncode}"
            + (", as a process does that takes too much memory" if done.returncode == -9 else "")
        )
    return json.loads(done.stdout.splitlines()[-1])


def _measure(request: Mapping[str, Any]) -> dict[str, Any]:
    config = config_io.from_mapping(request["config"])
    mixup = dataclasses.replace(config.mixup, warmup_epochs=0.0)
    config = dataclasses.replace(config, mixup=mixup)
    modalities = {name: ModalitySpec(**spec) for name, spec in request["modalities"].items()}
    outline = Outline(modalities, request["outputs"], request["task"])
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    size = config.train.batch_size
    made = assembly.assemble_model(
        config,
        outline.modalities,
        outline.num_outputs,
        num_examples=_STEPS_OF_AN_EPOCH * size,
        mesh=mesh,
    )
    state, measured = _train(made, config.seed, _batch(outline, size, mesh), request["steps"])
    measured |= _infer(made.model, state.eval_params, outline, mesh, request)
    (device,) = mesh.devices.flat
    measured["device"] = f"{device.platform}: {device.device_kind}"
    return {name: measured[name] for name in MEASURED}


def _train(
    made: assembly.Assembled, seed: int, batch: Batch, steps: int
) -> tuple[Any, dict[str, Any]]:
    state, number = made.new_state(seed), np.int32(seed)
    begin = time.perf_counter()
    lowered = made.step.lower(state, batch, number)
    lowering, begin = time.perf_counter() - begin, time.perf_counter()
    compiled = lowered.compile()
    compiling = time.perf_counter() - begin
    del lowered
    (device,) = jax.tree.leaves(state)[0].devices()
    jax.block_until_ready(state)
    process_memory.settle()
    idle, idle_on_device = process_memory.resident_bytes(), _device_bytes(device, "bytes_in_use")
    can_reset = process_memory.reset_peak()
    state, metrics = compiled(state, batch, number)
    jax.block_until_ready((state, metrics))
    peak = process_memory.peak_bytes() if can_reset else None
    peak_on_device = _device_bytes(device, "peak_bytes_in_use")
    seconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        state, metrics = compiled(state, batch, number)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - begin)
    plan = compiled.memory_analysis()
    return state, {
        "train_lowering_seconds": lowering,
        "train_compile_seconds": compiling,
        "train_temp_bytes": plan and plan.temp_size_in_bytes,
        "train_bytes_accessed_xla": _bytes_accessed(compiled),
        "idle_rss_bytes": idle,
        "train_peak_rss_bytes": _growth(idle, peak),
        "train_peak_device_bytes": _growth(idle_on_device, peak_on_device),
        "train_step_seconds": float(np.median(seconds)),
    }


def _infer(
    model: Any, params: Any, outline: Outline, mesh: Mesh, request: Mapping[str, Any]
) -> dict[str, Any]:
    step = compile_eval_step(model, mesh)
    seconds, accessed = {}, {}
    for size in request["batch_sizes"]:
        batch = _batch(outline, size, mesh)
        args = (params, batch, sharding.put_batch(np.arange(size, dtype=np.int32), mesh))
        compiled = step.lower(*args).compile()
        accessed[size] = _bytes_accessed(compiled)
        seconds[size] = _median_seconds(compiled, args, request["steps"])
    return {
        "forward_bytes_accessed_xla": accessed[1],
        "latency_seconds": seconds[1],
        "examples_per_second": {str(size): size / of for size, of in seconds.items()},
    }


def _median_seconds(function: Callable[..., Any], args: tuple[Any, ...], least: int) -> float:
    jax.block_until_ready(function(*args))
    seconds: list[float] = []
    # What takes microseconds is run more often.
    while len(seconds) < least or sum(seconds) < _LEAST_SECONDS:
        begin = time.perf_counter()
        jax.block_until_ready(function(*args))
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def _batch(outline: Outline, size: int, mesh: Mesh) -> Batch:
    """Random examples of full length."""
    random = np.random.default_rng(0)
    specs = outline.modalities.items()
    inputs = {name: random.standard_normal((size, *of.shape), np.float32) for name, of in specs}
    masks = {name: np.ones((size, *of.lengths), bool) for name, of in specs}
    labels = _labels(outline.task, size, outline.num_outputs)
    return sharding.put_batch(Batch(inputs, masks, labels, np.ones(size, np.float32)), mesh)


def _labels(task: Task, size: int, outputs: int) -> np.ndarray:
    if task in CLASS_TASKS:
        return np.arange(size) % outputs
    return (np.arange(size * outputs).reshape(size, outputs) % 2).astype(np.float32)


def _bytes_accessed(compiled: Any) -> int | None:
    accessed = (compiled.cost_analysis() or {}).get("bytes accessed")
    return None if accessed is None else int(accessed)


def _device_bytes(device: jax.Device, name: str) -> int | None:
    return (device.memory_stats() or {}).get(name)


def _growth(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(after - before, 0)


if __name__ == "__main__":
    json.dump(_measure(json.load(sys.stdin)), sys.stdout)
