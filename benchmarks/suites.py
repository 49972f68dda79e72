"""Table of the suites: one for each file of results, with the command that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.study.sets import SETS

AV_MNIST = "raw files of AV-MNIST"
PHYSIONET = "raw files of PhysioNet 2012"
HAPT = "raw files of HAPT"
RAW_FILES = (AV_MNIST, PHYSIONET, HAPT)
"""Data that `--manual_dir` names; their files may lie in one folder."""

_WATCH = "none: the package seglearn holds it"
_RAW = {"av_mnist": AV_MNIST, "physionet2012": PHYSIONET, "hapt": HAPT}
_GPU = "none; needs a GPU"
_MANUAL_DIR = "--manual_dir={manual_dir}"
PROFILED = ("sft", "mbt", "late")
"""Models that are profiled beside each other."""

_PROFILE = (f"--models={','.join(PROFILED)}", "--steps=2", "--batch_sizes=1,8")


class Suite(NamedTuple):
    """A benchmark with its arguments.

    Attributes:
      module: Module that `python -m` runs, with `--json=FILE` added.
      arguments: Further arguments. `{manual_dir}` stands for the folder of raw files.
      minutes: Rough duration on two CPU cores, or on a GPU if it needs one.
      data: Data that it needs beside the repository.
      group: Group that `--suite` of `run_all` names.
      scope: Code that can change its figures (`benchmarks.freshness.PARTS`).
    """

    module: str
    arguments: tuple[str, ...]
    minutes: int
    group: str
    scope: str
    data: str = "none"


def _study(name: str) -> Suite:
    one = SETS[name]
    arguments, data = [f"--set={name}", f"--runs=runs/study/{name}"], _WATCH
    if one.base.config in _RAW:
        arguments.append(_MANUAL_DIR)
        data = _RAW[one.base.config]
    return Suite("benchmarks.study", tuple(arguments), one.minutes, "study", one.scope, data)


def _profile(name: str) -> Suite:
    arguments = (f"--config=configs/{name}.py", *_PROFILE)
    return Suite("sft_jax.profile", arguments, 10, "cost", f"cost {name}")


def _own(
    name: str,
    minutes: int,
    group: str,
    scope: str,
    *arguments: str,
    data: str = "none",
) -> Suite:
    """Makes a suite with a module of its own, whose files belong to its scope."""
    own = f"benchmarks/{name}*.py"
    return Suite(f"benchmarks.{name}", arguments, minutes, group, f"{scope} {own}", data)


def _accelerator(seconds: int, *only: str) -> Suite:
    module, arguments = "benchmarks.accelerator_sections", [f"--seconds={seconds}"]
    arguments += [f"--only={name}" for name in only]
    scope = "runs cost benchmarks/accelerator_sections/"
    return Suite(module, tuple(arguments), 8, "gpu", scope, _GPU)


_EDGE = f"{_WATCH}; gcc, clang, lld, Node; extra [onnx]"

SUITES: Mapping[str, Suite] = {
    **{f"study_{name}": _study(name) for name in SETS},
    "first_run": _own("first_run", 2, "watch", "accuracy watch", data=_WATCH),
    "profile_vggsound": _profile("vggsound"),
    "profile_mosei": _profile("mosei"),
    "growth": _own("growth", 15, "cost", "cost"),
    "compilation": _own("compilation", 15, "cost", "cost vggsound", "--rounds=2"),
    "topologies": _own(
        *("topologies", 150, "cost", "cost sft_jax/compile/ sft_jax/parallel/ configs/"),
        data="none; extras [tpu] and [cuda]",
    ),
    "throughput": _own(
        *("throughput", 10, "cost", "data cost watch av_mnist mosei vggsound"),
        *("--steps=10", _MANUAL_DIR),
        data=AV_MNIST,
    ),
    "mosei_memory": _own("mosei_memory", 60, "cost", "data mosei", data="none; 16 GB of disk"),
    "imbalance": _own(
        *("imbalance", 30, "physionet", "accuracy physionet2012"), _MANUAL_DIR, data=PHYSIONET
    ),
    "diagnosis": _own("diagnosis", 150, "study", "accuracy matching"),
    "elastic_step": _own("elastic_step", 10, "cost", "cost watch av_mnist hapt"),
    "kills": Suite(
        *("benchmarks.kills", ("--kills=50",), 200, "watch", "runs watch benchmarks/kills/"),
        data=f"{_WATCH}; the right to mount a disk",
    ),
    "soak": _own("soak", 125, "watch", "runs watch", "--hours=2", data=_WATCH),
    "edge": Suite("benchmarks.edge", (), 5, "cost", "export watch benchmarks/edge/", _EDGE),
    "exported": _own(
        "exported", 3, "cost", "export watch", data=f"{_WATCH}; gcc, clang, lld, Node"
    ),
    "first_prediction": _own("first_prediction", 3, "cost", "export runs watch", data=_WATCH),
    "against_torch": _own(
        *("against_torch", 60, "cost", "cost benchmarks/torch_sft.py"),
        "--variants=exact,sparse,bfloat16",
        data="none; extra [torch]",
    ),
    "accelerator_h200": _accelerator(470),
    # Its roofline and its steps of MBT did not fit in the time of the other.
    "accelerator_h200_first": _accelerator(440),
}

GROUPS = tuple(dict.fromkeys(suite.group for suite in SUITES.values()))
"""Groups of suites, for `--suite` of `run_all`."""
