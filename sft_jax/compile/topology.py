"""Slices of Cloud TPUs and NVIDIA GPUs by name, on a machine that has none of them."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any

from jax.experimental import topologies

from sft_jax.plugins import suggest


@dataclasses.dataclass(frozen=True)
class Chip:
    """Memory and speed of one device, as its maker states them.

    Attributes:
      memory_bytes: Part of its main memory that a program may take.
      flops: Matrix products a second in bfloat16, a multiply-add counted as two.
      bytes_per_second: To and from main memory.
      interconnect_bytes_per_second: Bytes to other devices of a slice.
      hertz: Clock, for the cycles that the compiler estimates; 0 if it estimates none.
    """

    memory_bytes: int
    flops: float
    bytes_per_second: float
    interconnect_bytes_per_second: float
    hertz: float = 0.0


_GPUS = {
    "h100": ("NVIDIA H100 80GB HBM3", 3_352_320_000_000, 84_942_979_072),
    "h200": ("NVIDIA H200 141GB HBM3e", 4_800_000_000_000, 151_397_597_184),
}
"""Name, bytes of memory bandwidth a second and bytes of memory of a GPU."""

# Figures of TPUs are those of docs.cloud.google.com/tpu/docs/v5e, v5p and v6e. They count the
# interconnect in both directions, here it is one. Peak, and number and size of the matrix units,
# give the clock. Those of GPUs are of XLA's files h100_sxm.txtpb and h200.txtpb. JAX takes three
# quarters of a GPU's memory (docs.jax.dev/en/latest/gpu_memory_allocation.html).
CHIPS: Mapping[str, Chip] = {
    "v5e": Chip(16 * 2**30, 197e12, 819e9, 200e9, 1.5e9),
    "v5p": Chip(95 * 2**30, 459e12, 2765e9, 600e9, 1.75e9),
    "v6e": Chip(32 * 2**30, 918e12, 1640e9, 400e9, 1.75e9),
    **{
        gpu: Chip(int(0.75 * memory), 989e12, bandwidth, 450e9)
        for gpu, (_, bandwidth, memory) in _GPUS.items()
    },
}
"""Generations whose programs can be compiled."""

_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {8: "2x2x1", 16: "2x2x2", 64: "2x4x4", 128: "4x4x4", 256: "4x4x8", 512: "4x8x8"}
_SHAPES: Mapping[str, Mapping[int, str]] = {
    "v5e": _FLAT,
    "v6e": _FLAT,
    "v5p": _CUBES,
    **{gpu: {number: f"1x1x{number}" for number in (1, 2, 4, 8)} for gpu in _GPUS},
}
"""Shape of a slice by the number in its name: chips, and for v5p their cores, two of each."""

_ALIASES = {"v5litepod": "v5e"}
_EXTRAS = {"libtpu": "tpu", "jax_cuda13_plugin": "cuda"}

# Triton's products can't be tuned without a GPU, and some fail untuned.
_UNTUNED: Mapping[str, str | bool] = {
    "xla_gpu_enable_triton_gemm": False,
    "xla_gpu_autotune_level": "0",
}

_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: {memory}
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 minor: 0 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{name}"
"""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices of one slice, or of one machine with GPUs.

    Attributes:
      name: Name, such as v5e-16.
      generation: Key of `CHIPS`.
      shape: Arrangement of the chips, such as 4x4.
    """

    name: str
    generation: str
    shape: str

    @classmethod
    def named(cls, name: str) -> Topology:
        """Finds a slice by the name of its accelerator type.

        Args:
          name: GENERATION-NUMBER. The number counts chips, and for v5p cores, as Google's does.

        Raises:
          ValueError: If there is no such slice; the message lists those that there are.
        """
        generation, _, number = name.lower().partition("-")
        generation = _ALIASES.get(generation, generation)
        if generation not in CHIPS:
            raise ValueError(f"--topology={name}: {suggest(generation, [*CHIPS])}")
        shapes = _SHAPES[generation]
        if not re.fullmatch(r"\d+", number) or int(number) not in shapes:
            known = ", ".join(f"{generation}-{known}" for known in shapes)
            raise ValueError(f"--topology={name}: there is no such slice; allowed are {known}")
        return cls(f"{generation}-{int(number)}", generation, shapes[int(number)])

    @property
    def chip(self) -> Chip:
        """Memory and speed of one of its devices."""
        return CHIPS[self.generation]

    @property
    def compiler_options(self) -> dict[str, str | bool] | None:
        """Options that compiling without the device needs."""
        return {**_UNTUNED} if self.generation in _GPUS else None

    def require_compiler(self) -> None:
        """Raises ModuleNotFoundError unless the compiler for the devices is installed."""
        module = "jax_cuda13_plugin" if self.generation in _GPUS else "libtpu"
        if importlib.util.find_spec(module) is None:
            extra = _EXTRAS[module]
            raise ModuleNotFoundError(
                f"the compiler {module!r} is not installed: pip install '.[train,{extra}]'",
                name=module,
            )

    def devices(self) -> list[Any]:
        """Describes the devices, as `jax.devices()` would on a machine that has them.

        Raises:
          ModuleNotFoundError: If the compiler for them is not installed.
          ValueError: If the compiler knows no such slice.
        """
        self.require_compiler()
        if self.generation in _GPUS:
            name, bandwidth, memory = _GPUS[self.generation]
            target = _HOPPER.format(name=name, bandwidth=bandwidth, memory=memory)
            options = {"target_config": target, "topology": self.shape}
            return [*topologies.get_topology_desc(platform="cuda", **options).devices]
        # libtpu asks Google's servers, for minutes, on which machine it is. Its lock lets one
        # process at a time use a TPU; compiling uses none.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        sizes = [int(size) for size in self.shape.split("x")]
        on_a_machine = [2, 4] if sizes == [2, 4] else [min(size, 2) for size in sizes[:2]]
        with _quiet():
            found = topologies.get_topology_desc(
                platform="tpu",
                topology_name=f"{self.generation}:{self.shape}",
                chips_per_host_bounds=(*on_a_machine, 1),
            )
        return [*found.devices]


@contextlib.contextmanager
def _quiet() -> Any:
    """Hides what libtpu writes to stderr on a machine without a TPU."""
    kept = os.dup(2)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
