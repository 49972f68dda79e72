"""Memory, collectives and estimated time of a compiled step."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import jax

from sft_jax.compile import hlo, schedules
from sft_jax.compile.topology import Chip, Topology

LAUNCH_SECONDS = 4.5e-6
"""Time to launch a kernel of a GPU.

Training steps of VGGSound at batch 24 on an H200 took 4.1 us a kernel in float32, beside the time
of memory, and 4.6 us in bfloat16 (`benchmarks/results/accelerator_h200.json`).
"""

MEMORY = ("arguments", "outputs", "temporaries", "program", "batches ahead")
"""Kinds of memory: the state and the batch; results that take the place of no argument;
intermediate results; the instructions; and batches that wait for later steps."""


class OutOfMemoryError(ValueError):
    """A step that the memory of a device can't hold.

    Attributes:
      needed_bytes: Bytes that it takes on one device.
    """

    def __init__(self, needed_bytes: float, chip: Chip) -> None:
        """Describes the step."""
        self.needed_bytes = needed_bytes
        super().__init__(
            f"the step takes {needed_bytes / 2**30:,.2f} GiB on each device, which has"
            f" {chip.memory_bytes / 2**30:,.2f} GiB for it"
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """Figures of a step on one device, all of them computed and none measured there.

    Attributes:
      compile_seconds: Time that compilation took here.
      memory: Bytes of each of `MEMORY`.
      peak_bytes: Their sum.
      kernels: Number of kernels.
      model_flops: Matrix products of the model, as the literature counts them.
      moved_bytes: Bytes to and from main memory.
      collectives: Kind of collective to the number of runs and bytes of results.
      seconds: Bounds and estimates; see `estimate`.
      parameter_bytes: Bytes of all parameters of the model.
      unscheduled: Number of kernels on a TPU that the estimate leaves out.
    """

    compile_seconds: float
    memory: Mapping[str, int]
    peak_bytes: int
    kernels: float
    model_flops: float
    moved_bytes: float
    collectives: Mapping[str, tuple[float, float]]
    seconds: Mapping[str, float]
    parameter_bytes: int
    unscheduled: float = 0

    @property
    def peak_share(self) -> float:
        """Share of the chip's peak in bfloat16 that the products of the model reach."""
        return self.seconds["products"] / self.seconds["step"]

    @property
    def bound(self) -> str:
        """Name of the longest part of the estimate, or other work if it explains less than half."""
        parts = {name: self.seconds[name] for name in _PARTS if name in self.seconds}
        longest = max(parts, key=lambda name: parts[name])
        return longest if 2 * parts[longest] >= self.seconds["step"] else "vector work"


_PARTS = ("products", "memory", "collectives", "launches")


def compile_step(
    lowered: jax.stages.Lowered,
    topology: Topology,
    model_flops: float,
    parameter_bytes: int,
    ahead_bytes: int = 0,
) -> Report:
    """Compiles a lowered step and counts what it takes.

    Args:
      lowered: Step, for devices of the topology.
      topology: Slice.
      model_flops: Matrix products of the step on one device.
      parameter_bytes: Bytes of all parameters.
      ahead_bytes: Bytes of the batches that wait on a device for later steps.

    Raises:
      OutOfMemoryError: If a device can't hold it.
    """
    begin = time.perf_counter()
    schedules.clear()
    try:
        compiled = lowered.compile(compiler_options=topology.compiler_options)
    except jax.errors.JaxRuntimeError as error:
        needed = re.search(r"RESOURCE_EXHAUSTED.*?\(([\d.]+)([KMG])\) exceeds", str(error), re.S)
        if not needed:
            raise
        scale = {"K": 2**10, "M": 2**20, "G": 2**30}[needed[2]]
        raise OutOfMemoryError(float(needed[1]) * scale, topology.chip) from error
    seconds = time.perf_counter() - begin
    memory = {**_memory(compiled.memory_analysis()), "batches ahead": ahead_bytes}
    peak = sum(memory.values())
    if peak > topology.chip.memory_bytes:
        raise OutOfMemoryError(peak, topology.chip)
    counts = hlo.count(compiled.as_text() or "", schedules.cycles())
    collectives: dict[str, tuple[float, float]] = {}
    for one in counts.collectives.values():
        times, size = collectives.get(one.kind, (0.0, 0.0))
        collectives[one.kind] = (times + one.times, size + one.times * one.bytes)
    return Report(
        compile_seconds=seconds,
        memory=memory,
        peak_bytes=peak,
        kernels=counts.kernels,
        model_flops=model_flops,
        moved_bytes=counts.bytes,
        collectives=collectives,
        seconds=estimate(counts, model_flops, topology.chip),
        parameter_bytes=parameter_bytes,
        unscheduled=counts.unscheduled,
    )


def estimate(counts: hlo.Counts, model_flops: float, chip: Chip) -> dict[str, float]:
    """Estimates how long a step takes.

    Args:
      counts: Work of one device.
      model_flops: Matrix products of the step on one device.
      chip: Memory and speed of the device.

    Returns:
      Seconds:

      - `products`, `memory` and `collectives`, the times at the chip's peak and bandwidths, where
        devices form a ring;
      - `launches` of kernels, on a GPU;
      - `compiler`, the sum of the cycles that the compiler for TPUs estimates or schedules;
      - `step`, the estimate: that of the compiler, or launches and the longer of memory and
        products; and the collectives.
    """
    seconds = {
        "products": model_flops / chip.flops,
        "memory": counts.bytes / chip.bytes_per_second,
        "collectives": sum(map(_ring_bytes, counts.collectives.values()))
        / chip.interconnect_bytes_per_second,
    }
    if chip.hertz:
        seconds["compiler"] = counts.cycles / chip.hertz
        work = seconds["compiler"]
    else:
        seconds["launches"] = counts.kernels * LAUNCH_SECONDS
        work = seconds["launches"] + max(seconds["memory"], seconds["products"])
    return {**seconds, "step": work + seconds["collectives"]}


def _ring_bytes(one: hlo.Collective) -> float:
    """Bytes that each device of a ring sends in all runs of a collective."""
    share = (one.devices - 1) / one.devices if one.devices else 1.0
    rounds = 2 if one.kind == "all-reduce" else 1
    # A device holds only its part of the result of a scatter.
    whole = one.bytes * (max(one.devices, 1) if one.kind == "reduce-scatter" else 1)
    return one.times * rounds * share * whole


def _memory(plan: Any) -> dict[str, int]:
    return {
        "arguments": plan.argument_size_in_bytes,
        "outputs": max(plan.output_size_in_bytes - plan.alias_size_in_bytes, 0),
        "temporaries": plan.temp_size_in_bytes,
        "program": plan.generated_code_size_in_bytes,
    }


def advice(needed: float, chip: Chip, config: Any, mesh: Any) -> list[str]:
    """Lists changes of a config that make a step smaller, those that keep its results first.

    Args:
      needed: Bytes that the step takes on one device.
      chip: Memory and speed of the device.
      config: Experiment.
      mesh: Devices.
    """
    share = mesh.shape["data"] * mesh.shape["fsdp"]
    mine = config.train.batch_size // (share * config.train.accumulate)
    factor = 2 ** math.ceil(math.log2(needed / chip.memory_bytes))
    found = []
    if config.system.batches_ahead:
        found.append("--config.system.batches_ahead=0: no batches wait on the devices")
    if mine > 1:
        parts = min(factor, 2 ** int(math.log2(mine)))
        smaller = config.train.accumulate * parts
        found.append(f"--config.train.accumulate={smaller}: {parts} times fewer examples at once")
    if not config.model.remat:
        found.append("--config.model.remat=True: blocks computed once more for the gradient")
    if config.model.dtype == "float32":
        found.append("--config.model.dtype=bfloat16: activations of half the size")
    if mesh.size > mesh.shape["fsdp"] * mesh.shape["model"]:
        fsdp = mesh.shape["fsdp"] * mesh.shape["data"]
        found.append(f"--config.mesh.fsdp={fsdp}: parameters divided over more devices")
    if mine > 1:
        found.append(f"--config.train.batch_size={config.train.batch_size // factor}")
    found.append("a slice with more devices, or with more memory on each")
    return found
