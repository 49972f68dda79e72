"""Costs of a model, counted from its jaxpr and measured in a separate process."""

from __future__ import annotations

import dataclasses
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
from sft_jax.profile.isolated import run_isolated
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
"""Figures that `measure` returns, in this order."""

_STEPS_PER_EPOCH = 1000
_MIN_SECONDS = 0.5


def count(config: ExperimentConfig, outline: Outline) -> dict[str, Any]:
    """Counts the operations of one example in evaluation, without running the model.

    Args:
      config: Experiment whose model is counted.
      outline: Shapes of the data.

    Returns:
      JSON values:

      - `parameters`, the number of trainable parameters;
      - `forward_flops`, operations of matrix products alone, as the literature counts them;
      - `stage_flops`, their part in each of `sft_jax.profile.flops.STAGES`;
      - `forward_elementwise_flops` and `stage_elementwise_flops`, all other arithmetic.

    Raises:
      ValueError: If the model does not fit the data.
    """
    model = build_model(config.model, outline.modalities, outline.num_outputs)
    stages = flops.forward_stages(model)
    total = flops.total(stages)
    return {
        "parameters": flops.num_parameters(model),
        "forward_flops": total.matmul_flops,
        "stage_flops": {stage: cost.matmul_flops for stage, cost in stages.items()},
        "forward_elementwise_flops": total.elementwise_flops,
        "stage_elementwise_flops": {
            stage: cost.elementwise_flops for stage, cost in stages.items()
        },
    }


def measure(
    config: ExperimentConfig,
    outline: Outline,
    *,
    batch_sizes: Sequence[int],
    steps: int,
    cache: str = "",
) -> dict[str, Any]:
    """Compiles and runs the model of a config, in a new process, on one device.

    The input is random, of full length. A training step is the step of `train.py`, with the
    config's batch size and optimiser. If the config uses mixup, the first step uses it already.

    Args:
      config: Experiment whose model is measured.
      outline: Shapes of the data.
      batch_sizes: Batch sizes at which inference is timed, in addition to 1.
      steps: Number of timed training steps, and least number of timed runs of inference. One
        untimed run of each comes first.
      cache: Folder of compiled programs. With an empty one nothing is taken from a cache, and
        the times of compilation are those of the compiler.

    Returns:
      JSON values, null where the system does not report them:

      - `train_lowering_seconds`, for tracing and lowering the training step, and
        `train_compile_seconds`, for XLA or for reading `cache`;
      - `train_temp_bytes`, planned by XLA for intermediate results of the step;
      - `train_bytes_accessed_xla` and, at batch size 1, `forward_bytes_accessed_xla`, XLA's
        estimates of the bytes read and written. They count the body of a loop once;
      - `idle_rss_bytes`, resident after compilation with state and batch in place, and
        `train_peak_rss_bytes`, the growth of the resident set beyond it in the first step;
      - `train_peak_device_bytes`, the same for an accelerator's own memory. Its peak can't be
        reset, so it may be from before the step;
      - `train_step_seconds`, the median;
      - `latency_seconds`, the median at batch size 1, and `examples_per_second` by batch size;
      - `device`, the platform and kind of the device.

    Raises:
      ChildProcessError: If the process fails; its stderr says why.
    """
    request = {
        "config": config_io.to_json(config),
        "modalities": {name: dataclasses.asdict(s) for name, s in outline.modalities.items()},
        "outputs": outline.num_outputs,
        "task": config.model.task,
        "batch_sizes": sorted({1, *batch_sizes}),
        "steps": steps,
    }
    environment = {
        "JAX_ENABLE_COMPILATION_CACHE": str(bool(cache)).lower(),
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    try:
        return run_isolated(f"{__name__}:measure_here", request, environment=environment)
    except ChildProcessError as error:
        raise ChildProcessError(f"measuring {config.model.name}: {error}") from error


def measure_here(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compiles and runs a model in this process.

    Args:
      request: Config and outline as JSON values, with the `batch_sizes` and `steps` of `measure`.

    Returns:
      The return value of `measure`.
    """
    config = config_io.from_mapping(request["config"])
    mixup = dataclasses.replace(config.mixup, warmup_epochs=0.0)
    # Weights of classes need the data, and cost nothing.
    train = dataclasses.replace(config.train, class_weights="")
    config = dataclasses.replace(config, mixup=mixup, train=train)
    modalities = {name: ModalitySpec(**spec) for name, spec in request["modalities"].items()}
    outline = Outline(modalities, request["outputs"], request["task"])
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    size = config.train.batch_size
    assembled = assembly.assemble_model(
        config,
        outline.modalities,
        outline.num_outputs,
        num_examples=_STEPS_PER_EPOCH * size,
        mesh=mesh,
    )
    batch = random_batch(outline, size, mesh)
    state, measured = _train(assembled, config.seed, batch, request["steps"])
    measured |= _infer(assembled.model, state.eval_params, outline, mesh, request)
    (device,) = mesh.devices.flat
    measured["device"] = f"{device.platform}: {device.device_kind}"
    return {name: measured[name] for name in MEASURED}


def random_batch(outline: Outline, size: int, mesh: Mesh, *, seed: int = 0) -> Batch:
    """Makes random examples of full length, without padding, on the devices of a mesh.

    Args:
      outline: Shapes of the data.
      size: Number of examples.
      mesh: Devices that the examples are divided over.
      seed: Seed of the random inputs; labels do not depend on it.
    """
    random = np.random.default_rng(seed)
    specs = outline.modalities.items()
    inputs = {name: random.standard_normal((size, *spec.shape), np.float32) for name, spec in specs}
    for name, spec in specs:
        if spec.vocabulary:
            inputs[name][:] = 0  # Ids that every table has.
    masks = {name: np.ones((size, *spec.lengths), bool) for name, spec in specs}
    labels = _labels(outline.task, size, outline.num_outputs)
    return sharding.put_batch(Batch(inputs, masks, labels, np.ones(size, np.float32)), mesh)


def _train(
    assembled: assembly.Assembled, seed: int, batch: Batch, steps: int
) -> tuple[Any, dict[str, Any]]:
    state, traced_seed = assembled.new_state(seed), np.int32(seed)
    begin = time.perf_counter()
    lowered = assembled.step.lower(state, batch, traced_seed)
    lowering, begin = time.perf_counter() - begin, time.perf_counter()
    compiled = lowered.compile()
    compiling = time.perf_counter() - begin
    del lowered
    (device,) = jax.tree.leaves(state)[0].devices()
    jax.block_until_ready(state)
    idle_on_device = _device_bytes(device, "bytes_in_use")
    with process_memory.growth() as memory:
        state, metrics = compiled(state, batch, traced_seed)
        jax.block_until_ready((state, metrics))
    peak_on_device = _device_bytes(device, "peak_bytes_in_use")
    seconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        state, metrics = compiled(state, batch, traced_seed)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - begin)
    plan = compiled.memory_analysis()
    return state, {
        "train_lowering_seconds": lowering,
        "train_compile_seconds": compiling,
        "train_temp_bytes": plan and plan.temp_size_in_bytes,
        "train_bytes_accessed_xla": _bytes_accessed(compiled),
        "idle_rss_bytes": memory.idle_bytes,
        "train_peak_rss_bytes": memory.peak_bytes,
        "train_peak_device_bytes": _growth(idle_on_device, peak_on_device),
        "train_step_seconds": float(np.median(seconds)),
    }


def _infer(
    model: Any, params: Any, outline: Outline, mesh: Mesh, request: Mapping[str, Any]
) -> dict[str, Any]:
    step = compile_eval_step(model, mesh)
    seconds, accessed = {}, {}
    for size in request["batch_sizes"]:
        batch = random_batch(outline, size, mesh)
        args = (params, batch, sharding.put_batch(np.arange(size, dtype=np.int32), mesh))
        compiled = step.lower(*args).compile()
        accessed[size] = _bytes_accessed(compiled)
        seconds[size] = median_seconds(compiled, args, request["steps"])
    return {
        "forward_bytes_accessed_xla": accessed[1],
        "latency_seconds": seconds[1],
        "examples_per_second": {str(size): size / each for size, each in seconds.items()},
    }


def median_seconds(function: Callable[..., Any], args: tuple[Any, ...], min_runs: int) -> float:
    """Median seconds of a function that gives arrays, after one more call that compiles it.

    Args:
      function: Function.
      args: Its arguments.
      min_runs: Least number of timed calls. Short ones are repeated for half a second.
    """
    jax.block_until_ready(function(*args))
    seconds: list[float] = []
    # A program that takes only microseconds runs more often.
    while len(seconds) < min_runs or sum(seconds) < _MIN_SECONDS:
        begin = time.perf_counter()
        jax.block_until_ready(function(*args))
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


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
