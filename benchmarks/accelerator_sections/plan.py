"""Processes of the accelerator benchmark, in their order, and their sizes."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

from benchmarks.accelerator_sections import equality

SECTIONS = ("equality", "kernels", "resume", "step_cost", "roofline")

_SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Environment of processes that use the device at the same time as others."""
_QUICK = {**_SHARED, "XLA_FLAGS": "--xla_gpu_autotune_level=0"}
"""Environment without autotuning, which is most of the time of compiling."""
_DETERMINISTIC = {**_SHARED, "XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}

_LANES = 3
_KERNELS = (
    *(("bfloat16", "cudnn"), ("bfloat16", "flash"), ("bfloat16", "tiled")),
    *(("float32", "auto"), ("float32", "flash")),
)


class Child(NamedTuple):
    """A process.

    Attributes:
      section: Section of its rows.
      name: Name of the row about the process itself.
      module: Name of a module in `accelerator_sections`.
      request: Argument of the module, as JSON values.
      environment: Variables added to the environment.
      least_seconds: Remaining time without which the process is not started.
      most_seconds: Time limit, so that a process that hangs leaves time for the others.
    """

    section: str
    name: str
    module: str
    request: dict[str, Any]
    environment: dict[str, str]
    least_seconds: float
    most_seconds: float


Lane = list[Child]
"""Processes that run one after the other."""

MACHINE = Child("machine", "process", "machine", {}, _SHARED, 0, 60)


def make(folder: pathlib.Path, *, smallest: bool) -> list[list[Lane]]:
    """Plans groups that run one after the other; lanes of a group run at the same time.

    Args:
      folder: Folder for checkpoints.
      smallest: Plans a tiny form, which only shows that it works.
    """
    if smallest:
        one = {"name": "unimodal", "modality": "flow", "n_pre": 0, "n_post": 1, "width": 10}
        tiny = {"model": one, "train": {"batch_size": 2}, "mixup": {"layers": "none"}}
        return [
            [
                [
                    _equality(8, 9, 0, smallest=True),
                    _kernels(2, [[5, 5]], ["tiled"]),
                    _step_cost("vggsound", 2, "float32", "auto", tiny, 0.01),
                ],
                [_roofline(smallest=True), *_resume(folder, "float32", tiny, steps=2)],
            ]
        ]
    # Nothing is timed in the first group, so its processes share the device and the cores.
    dropout = {"train": {"ema_decay": 0.9}, "model": {"dropout": 0.1, "n_post": 2}}
    per_lane = -(-len(equality.cases()) // _LANES)
    correct = [[_equality(i * per_lane, (i + 1) * per_lane, i)] for i in range(_LANES)]
    shapes = [[150, 150], [21, 21], [1, 21], [1201, 1201]]
    correct.append([_kernels(4, shapes, ["cudnn", "flash", "tiled"])])
    correct += [_resume(folder, dtype, dropout, steps=10) for dtype in ("float32", "bfloat16")]
    timed = [_step_cost("vggsound", 24, *kernel) for kernel in _KERNELS]
    timed += [_step_cost("vggsound", 1024, *kernel) for kernel in _KERNELS]
    timed += [_step_cost("mosei", 24, *kernel) for kernel in _KERNELS]
    timed.append(_step_cost("vggsound", 24, "bfloat16", "cudnn", {"model": {"name": "mbt"}}))
    timed += [_step_cost("mosei", 1024, *kernel) for kernel in _KERNELS]
    timed.append(_roofline(smallest=False))
    return [correct, [timed]]


def _equality(first: int, end: int, lane: int, *, smallest: bool = False) -> Child:
    request = {
        "cases": [first, end],
        "mixup": "none" if smallest else "any",
        "model": {"n_pre": 0, "n_post": 1, "modality": "short"} if smallest else {},
        "precisions": ["highest"] if smallest or first else ["highest", "default"],
        "threads": 1 if smallest else 5,
    }
    return Child("equality", f"process {lane}", "equality", request, _QUICK, 30, 160)


def _kernels(batch: int, shapes: list[list[int]], kernels: list[str]) -> Child:
    request = {"batch": batch, "shapes": shapes, "kernels": kernels}
    return Child("kernels", "process", "kernels", request, _QUICK, 30, 160)


def _resume(folder: pathlib.Path, dtype: str, changes: dict[str, Any], steps: int) -> Lane:
    request = {
        "name": dtype,
        "config": "vggsound",
        "argument": "size=laptop",
        "changes": _merged(changes, {"model": {"dtype": dtype}}),
        "steps": steps,
        "folder": str(folder / dtype),
    }
    return [
        Child(
            "resume",
            f"{dtype}, process {number}",
            "resuming",
            {**request, "restore": bool(number)},
            _DETERMINISTIC,
            30,
            130,
        )
        for number in range(2)
    ]


def _step_cost(
    config: str,
    batch_size: int,
    dtype: str,
    kernel: str,
    changes: dict[str, Any] | None = None,
    seconds: float = 1.5,
) -> Child:
    model = (changes or {}).get("model", {}).get("name", "sft")
    name = f"{config}, {model}, batch {batch_size}, {dtype}, {kernel}"
    own = {
        "model": {"dtype": dtype, "attention_kernel": kernel},
        "train": {"batch_size": batch_size},
    }
    request = {
        "name": name,
        "config": config,
        "argument": None,
        "changes": _merged(changes or {}, own),
        "seconds": seconds,
    }
    return Child("step_cost", name, "step_cost", request, {}, 25, 100)


def _roofline(*, smallest: bool) -> Child:
    request: dict[str, Any] = {
        "tokens": 1201,
        "dtypes": ["bfloat16", "float32"],
        "kernels": None,
        "batch_sizes": [24, 256],
        "dense_batch_sizes": [24, 1024],
        "megabytes": 1024,
        "matmul": 8192,
        "seconds": 0.2,
        "threads": 12,
    }
    if smallest:
        request |= {
            "tokens": 21,
            "dtypes": ["float32"],
            "kernels": ["tiled"],
            "batch_sizes": [2],
            "dense_batch_sizes": [],
            "megabytes": 0.01,
            "matmul": 64,
            "seconds": 0.01,
            "threads": 2,
        }
    return Child("roofline", "process", "roofline", request, {}, 30, 130)


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Changes of both, section by section."""
    return {name: {**one.get(name, {}), **other.get(name, {})} for name in {*one, *other}}
