"""Table of the suites: one for each file of results, with the command that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks import accuracy_suites

AV_MNIST = "raw files of AV-MNIST"
PHYSIONET = "raw files of PhysioNet 2012"
RAW_FILES = (AV_MNIST, PHYSIONET)
"""Data that `--manual_dir` names; their files may lie in one folder."""

_WATCH = "none: the package seglearn holds it"
_GPU = "none; needs a GPU"
_PROFILE = ("--models=sft,mbt,late", "--steps=2", "--batch_sizes=1,8")


class Suite(NamedTuple):
    """A benchmark with its arguments.

    Attributes:
      module: Module that `python -m` runs, with `--json=FILE` added.
      arguments: Further arguments. `{manual_dir}` stands for the folder of raw files.
      minutes: Rough duration on two CPU cores, or on a GPU if it needs one.
      data: Data that it needs beside the repository.
    """

    module: str
    arguments: tuple[str, ...]
    minutes: int
    data: str = "none"


_ACCURACY_MINUTES = {
    "watch_accuracy": 10,
    "watch_five_seeds": 15,
    "watch_leave_one_out": 30,
    "watch_ablation": 80,
    "watch_pools_k1": 40,
    "watch_pools_k16": 50,
    "watch_fresh_cls": 30,
    "watch_readout_choice": 60,
    "watch_elastic": 45,
    "watch_elastic_patch": 25,
    "watch_long_elastic": 40,
    "av_mnist_elastic": 90,
    "av_mnist": 180,
    "av_mnist_fresh_cls": 20,
    "sparse_accuracy": 240,
}
_WITH_AV_MNIST = ("av_mnist", "av_mnist_elastic", "av_mnist_fresh_cls", "sparse_accuracy")


def _accuracy(name: str) -> Suite:
    arguments, data = [f"--suite={name}"], _WATCH
    if name in _WITH_AV_MNIST:
        arguments.append("--manual_dir={manual_dir}")
        data = AV_MNIST
    return Suite("benchmarks.accuracy", tuple(arguments), _ACCURACY_MINUTES[name], data)


def _accelerator(seconds: int, *only: str) -> Suite:
    arguments = (f"--seconds={seconds}", *(f"--only={name}" for name in only))
    return Suite("benchmarks.accelerator_sections", arguments, 8, _GPU)


SUITES: Mapping[str, Suite] = {
    **{name: _accuracy(name) for name in accuracy_suites.SUITES if name != "quick"},
    "profile_vggsound": Suite("sft_jax.profile", ("--config=configs/vggsound.py", *_PROFILE), 10),
    "profile_mosei": Suite("sft_jax.profile", ("--config=configs/mosei.py", *_PROFILE), 10),
    "growth": Suite("benchmarks.growth", (), 15),
    "compilation": Suite("benchmarks.compilation", ("--rounds=2",), 15),
    "throughput": Suite(
        "benchmarks.throughput", ("--steps=10", "--manual_dir={manual_dir}"), 10, AV_MNIST
    ),
    "mosei_memory": Suite("benchmarks.mosei_memory", (), 60, "none; 16 GB of disk"),
    "models": Suite("benchmarks.models", (), 25, _WATCH),
    "imbalance": Suite("benchmarks.imbalance", ("--manual_dir={manual_dir}",), 10, PHYSIONET),
    "elastic_step": Suite("benchmarks.elastic_step", (), 10),
    "kills": Suite("benchmarks.kills", ("--kills=60",), 60, _WATCH),
    "edge": Suite("benchmarks.edge", (), 5, f"{_WATCH}; gcc, clang, lld, Node; extra [onnx]"),
    "first_prediction": Suite("benchmarks.first_prediction", (), 3, _WATCH),
    "against_torch": Suite(
        "benchmarks.against_torch", ("--variants=exact,sparse,bfloat16",), 60, "none; extra [torch]"
    ),
    "against_commit": Suite("benchmarks.against_commit", ("--other=b2ed937",), 20),
    "accelerator_h200_first": _accelerator(440),
    "accelerator_h200_second": _accelerator(
        345, "equality", "resume", "vggsound, sft, batch 1024", "mosei", "vggsound, mbt"
    ),
}
