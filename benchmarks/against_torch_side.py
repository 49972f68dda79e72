"""One side of `against_torch.py`: a process that measures its own steps when it is told to.

python benchmarks/against_torch_side.py JOB

JOB is a JSON object: `side`, torch or jax; `dataset`; `batch_size`; `cores`, those it runs on;
and for jax `overrides` of the config of the model. Commands come as JSON objects, one a line,
and so do the answers. A side imports the other's library nowhere.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import gc
import json
import math
import os
import pathlib
import sys
import time
from typing import Any, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Data:
    """What a dataset looks like, and the authors' settings for it that only torch needs.

    Attributes:
      names: ours of the modalities, in the authors' slots.
      lengths: steps of each.
      features: at each step.
      classes: labels.
      kernels: windows of max pooling.
      lr: learning rate.
    """

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    features: tuple[int, ...]
    classes: int
    kernels: tuple[int, ...]
    lr: float

    def batch(self, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Random inputs by name, and labels: for both sides the same."""
        rng = np.random.default_rng(0)
        inputs = {
            name: rng.standard_normal((size, length, features), np.float32)
            for name, length, features in zip(self.names, self.lengths, self.features, strict=True)
        }
        return inputs, rng.integers(self.classes, size=size)


DATA = {
    "vggsound": Data(
        ("rgb", "spect", "flow"), (38, 1200, 38), (1024, 128, 1024), 10, (38, 64, 38), 1e-3
    ),
    "mosei": Data(
        ("vision", "audio", "text"), (500, 500, 50), (35, 74, 300), 7, (64, 64, 50), 1e-4
    ),
}


class Side(Protocol):
    """What is measured; a step ends when its results are there."""

    def facts(self) -> dict[str, Any]:
        """Version of the library, and the number of parameters."""

    def train(self) -> float:
        """Takes a training step; the loss."""

    def infer(self) -> None:
        """Computes logits."""

    def planned_memory(self) -> dict[str, float]:
        """What the library itself knows of the memory of a training step."""


class TorchSide:
    """The authors' SFT in PyTorch."""

    def __init__(self, job: dict[str, Any]) -> None:
        import torch

        from benchmarks import torch_sft

        self._torch, self._sft = torch, torch_sft
        torch.set_num_threads(len(job["cores"]))
        torch.manual_seed(0)
        data = DATA[job["dataset"]]
        pools = [torch_sft.Pooling("max", kernel) for kernel in data.kernels]
        self._model = torch_sft.TorchSft(data.lengths, data.features, pools, data.classes)
        self._optimizer = torch_sft.make_optimizer(self._model, data.lr)
        inputs, labels = data.batch(job["batch_size"])
        self._inputs = [torch.from_numpy(array) for array in inputs.values()]
        self._labels = torch.from_numpy(labels)

    def facts(self) -> dict[str, Any]:
        """See `Side`."""
        count = sum(parameter.numel() for parameter in self._model.parameters())
        return {"version": self._torch.__version__, "parameters": count}

    def train(self) -> float:
        """See `Side`."""
        self._model.train()
        loss = self._sft.train_step(self._model, self._optimizer, self._inputs, self._labels)
        return loss.item()

    def infer(self) -> None:
        """See `Side`."""
        self._model.eval()
        with self._torch.no_grad():
            self._model(self._inputs)

    def planned_memory(self) -> dict[str, float]:
        """What autograd keeps between forward and backward, each storage counted once."""
        kept = {}

        def keep(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage
            return tensor

        with self._torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self._model.train()(self._inputs)
        return {"saved_mib": sum(storage.nbytes() for storage in kept.values()) / 2**20}

    def golden(self, folder: str) -> dict[str, float]:
        """How far the logits are from a file of golden arrays, in float64."""
        with np.load(pathlib.Path(folder) / "sft_poolk_max.npz") as arrays:
            arrays = dict(arrays)
        model = self._sft.TorchSft.of_golden(json.loads(str(arrays["config_json"])), arrays)
        inputs = [self._torch.from_numpy(arrays[f"in/{s}"]).double() for s in self._sft.SLOTS]
        error = model(inputs).detach().numpy() - arrays["f64/logits"]
        return {"error": float(np.abs(error).max())}


class JaxSide:
    """Ours, as `configs` has it but without mixup, and compiled ahead of time."""

    def __init__(self, job: dict[str, Any]) -> None:
        import jax

        from configs import mosei, vggsound
        from sft_jax import ModalitySpec, config_io
        from sft_jax.modules.factory import build_model
        from sft_jax.structs import Batch
        from sft_jax.training import optim, state, step

        self._jax = jax
        data = DATA[job["dataset"]]
        config = {"mosei": mosei, "vggsound": vggsound}[job["dataset"]].get_config("mixup=none")
        config.model.update(job["overrides"])
        config = config_io.from_mapping(config)
        inputs, labels = data.batch(job["batch_size"])
        modalities = {name: ModalitySpec.from_shape(a.shape[1:]) for name, a in inputs.items()}
        masks = {name: np.ones(array.shape[:2], bool) for name, array in inputs.items()}
        batch = Batch(inputs, masks, labels.astype(np.int32), np.ones(len(labels), np.float32))
        self._batch = jax.device_put(batch)
        self._model = build_model(config.model, modalities, data.classes)
        optimizer = optim.make_optimizer(config.optim, optim.make_schedule(config.optim, 1, 1))
        plateau = optim.make_plateau(config.optim)
        make = functools.partial(
            state.make_state, self._model, optimizer, plateau, config.seed, ema=False
        )
        self._state = jax.block_until_ready(jax.jit(make)())
        train_step = step.make_train_step(self._model, optimizer, config, config.seed)
        jitted = jax.jit(train_step, donate_argnums=0)
        self._train = jitted.lower(self._state, self._batch).compile()

    @functools.cached_property
    def _infer(self) -> Any:
        def logits(params: Any, batch: Any) -> Any:
            return self._model.apply({"params": params}, batch.inputs, batch.masks)

        return self._jax.jit(logits).lower(self._state.params, self._batch).compile()

    def facts(self) -> dict[str, Any]:
        """See `Side`."""
        count = sum(leaf.size for leaf in self._jax.tree.leaves(self._state.params))
        return {"version": self._jax.__version__, "parameters": count}

    def train(self) -> float:
        """See `Side`."""
        self._state, metrics = self._train(self._state, self._batch)
        self._jax.block_until_ready(self._state)
        return float(metrics.loss)

    def infer(self) -> None:
        """See `Side`."""
        self._jax.block_until_ready(self._infer(self._state.params, self._batch))

    def planned_memory(self) -> dict[str, float]:
        """What XLA plans for all that is neither argument nor result."""
        planned = self._train.memory_analysis().temp_size_in_bytes
        return {"xla_temporary_mib": planned / 2**20}


def timed(side: Side, what: str, steps: int) -> dict[str, float]:
    """Seconds of a step on the clock, and of all threads of this process."""
    take = getattr(side, what)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        take()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall / steps, "cpu": cpu / steps}


def memory(side: Side) -> dict[str, float]:
    """By how much a training step raises the resident set at the most, over that before it."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    # Has VmHWM, the most there has been, begin again at what there is.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    loss = side.train()
    growth = _resident("VmHWM") - before
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss}")
    return {"growth_mib": growth, **side.planned_memory()}


def _resident(name: str) -> float:
    """MiB of a field of this process's status."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 2**10
    raise LookupError(f"/proc/self/status has no {name}")


def main() -> None:
    """Answers commands until there are no more."""
    job = json.loads(sys.argv[1])
    # Before a library counts the cores that it may use.
    os.sched_setaffinity(0, job["cores"])
    side: Any = {"torch": TorchSide, "jax": JaxSide}[job["side"]](job)
    print(json.dumps(side.facts()), flush=True)
    for line in sys.stdin:
        match json.loads(line):
            case {"time": what, "steps": steps}:
                answer = timed(side, what, steps)
            case {"golden": folder}:
                answer = side.golden(folder)
            case "memory":
                answer = memory(side)
            case command:
                raise ValueError(f"unknown command {command!r}")
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
