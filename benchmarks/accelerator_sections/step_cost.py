"""Time, memory and compilation of one config's training step and inference, in a fresh process."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator_sections import reporting, synthetic
from sft_jax.parallel import sharding
from sft_jax.training.step import compile_eval_step

_MOST_ENQUEUED = 20


def measure(request: dict[str, Any]) -> None:
    """Measures one config; a lack of memory is a result.

    Args:
      request: `name` of the row; `config`, `argument` and `changes` of
        `synthetic.load_config`; `seconds` to repeat each measurement for.
    """
    name = request["name"]
    with reporting.row(name):
        config = synthetic.load_config(request["config"], request["argument"], request["changes"])
        reporting.emit(
            name,
            config=f"configs/{request['config']}.py:{request['argument'] or ''}",
            model=config.model.name,
            batch_size=config.train.batch_size,
            dtype=config.model.dtype,
            attention_kernel=config.model.attention_kernel,
        )
        mesh = synthetic.one_device_mesh()
        assembled, batch = synthetic.assemble(config, mesh), synthetic.batch(config, mesh)
        state = synthetic.state(assembled)
        params = jax.tree.map(np.asarray, state.eval_params)
        with reporting.row(name, "train_"):
            _train(name, assembled, state, batch, request["seconds"])
        del state
        _infer(name, assembled, jax.device_put(params, sharding.replicated(mesh)), batch, request)


def _train(name: str, assembled: Any, state: Any, batch: Any, seconds: float) -> None:
    seed = np.int32(0)
    begin = time.perf_counter()
    lowered = assembled.step.lower(state, batch, seed)
    lowering, begin = time.perf_counter() - begin, time.perf_counter()
    compiled = lowered.compile()
    compiling = time.perf_counter() - begin
    reporting.emit(name, train_lowering_seconds=lowering, train_compile_seconds=compiling)
    plan = compiled.memory_analysis()
    if plan is not None:
        reporting.emit(
            name,
            memory_analysis={
                "temp_bytes": plan.temp_size_in_bytes,
                "argument_bytes": plan.argument_size_in_bytes,
                "output_bytes": plan.output_size_in_bytes,
                "alias_bytes": plan.alias_size_in_bytes,
            },
        )
    (device,) = jax.tree.leaves(state)[0].devices()
    before = _memory(device)
    state, metrics = compiled(state, batch, seed)
    jax.block_until_ready((state, metrics))
    # The peak can't be reset: before the step it is that of compiling and choosing kernels.
    reporting.emit(
        name,
        device_bytes={
            "in_use_before_step": before.get("bytes_in_use"),
            "peak_before_step": before.get("peak_bytes_in_use"),
            "peak_after_step": _memory(device).get("peak_bytes_in_use"),
            "limit": before.get("bytes_limit"),
        },
        finite=bool(np.isfinite(metrics.loss)),
    )

    def steps(count: int) -> Any:
        nonlocal state
        for _ in range(count):
            state, metrics = compiled(state, batch, seed)
        return state, metrics

    waiting = reporting.repeat(lambda: steps(1), seconds)
    reporting.emit(name, train_step_seconds=reporting.median_and_range(waiting))
    # As in the training loop, which reads a step while the next ones are computed.
    count = int(np.clip(seconds / 3 / min(waiting), 2, _MOST_ENQUEUED))
    runs = reporting.repeat(lambda: steps(count), seconds, max_runs=10)
    per_step = reporting.median_and_range([run / count for run in runs])
    reporting.emit(name, train_step_seconds_enqueued={**per_step, "enqueued": count})


def _infer(name: str, assembled: Any, params: Any, batch: Any, request: dict[str, Any]) -> None:
    mesh = synthetic.one_device_mesh()
    positions = np.arange(len(batch.weights), dtype=np.int32)
    args = (params, batch, sharding.put_batch(positions, mesh))
    lowered = compile_eval_step(assembled.model, mesh).lower(*args)
    begin = time.perf_counter()
    compiled = lowered.compile()
    compiling = time.perf_counter() - begin
    jax.block_until_ready(compiled(*args))
    runs = reporting.repeat(lambda: compiled(*args), request["seconds"])
    reporting.emit(
        name,
        inference_compile_seconds=compiling,
        inference_seconds=reporting.median_and_range(runs),
    )


def _memory(device: jax.Device) -> dict[str, int]:
    return device.memory_stats() or {}


if __name__ == "__main__":
    reporting.run(measure)
