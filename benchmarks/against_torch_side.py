"""One side of `against_torch.py`: steps of one library, measured in a process of its own.

The side of PyTorch imports neither JAX nor the package, and the other side no PyTorch.
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
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Data:
    """Shapes of a dataset, and the authors' settings for it that only PyTorch needs.

    Attributes:
      names: Our names of the modalities, in the authors' order.
      lengths: Number of steps of each modality.
      features: Number of features at each step.
      classes: Number of classes.
      kernels: Window of max pooling for each modality.
      lr: Learning rate.
    """

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    features: tuple[int, ...]
    classes: int
    kernels: tuple[int, ...]
    lr: float

    def batch(self, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Random inputs by name, and labels; the same for both sides."""
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
    """A library under measurement; a step ends when its results are computed."""

    def facts(self) -> dict[str, Any]:
        """Version of the library, and the number of parameters."""

    def train(self) -> float:
        """Takes a training step and returns the loss."""

    def infer(self) -> None:
        """Computes logits."""

    def planned_memory(self) -> dict[str, float]:
        """Memory of a training step by the library's own account."""


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
        """Memory that autograd keeps between forward and backward, each storage counted once."""
        storages = {}

        def keep(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage
            return tensor

        with self._torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self._model.train()(self._inputs)
        return {"saved_mib": sum(storage.nbytes() for storage in storages.values()) / 2**20}

    def golden(self, folder: str) -> dict[str, float]:
        """Largest difference of the logits from a file of golden arrays, in float64."""
        with np.load(pathlib.Path(folder) / "sft_poolk_max.npz") as arrays:
            arrays = dict(arrays)
        model = self._sft.TorchSft.from_golden(json.loads(str(arrays["config_json"])), arrays)
        inputs = [self._torch.from_numpy(arrays[f"in/{s}"]).double() for s in self._sft.SLOTS]
        error = model(inputs).detach().numpy() - arrays["f64/logits"]
        return {"error": float(np.abs(error).max())}


class JaxSide:
    """Our model with the settings of `configs` except mixup, compiled ahead of time."""

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
        make = functools.partial(state.make_state, self._model, optimizer, config.seed, ema=False)
        self._state = jax.block_until_ready(jax.jit(make)())
        train_step = step.make_train_step(
            self._model, optimizer, config.train, config.mixup, config.seed
        )
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
        """Memory that XLA plans for intermediate results."""
        planned = self._train.memory_analysis().temp_size_in_bytes
        return {"xla_temporary_mib": planned / 2**20}


def timed(side: Side, work: str, steps: int) -> dict[str, float]:
    """Seconds of a step: wall-clock time, and CPU time of all threads."""
    take = getattr(side, work)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        take()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall / steps, "cpu": cpu / steps}


def memory(side: Side) -> dict[str, float]:
    """Peak growth of the resident set in a training step.

    `sft_jax.profile.process_memory` measures the same, but importing it would import JAX.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    # Sets the peak, VmHWM, to the memory that is resident now.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    loss = side.train()
    growth = _resident("VmHWM") - before
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss}")
    return {"growth_mib": growth, **side.planned_memory()}


def _resident(name: str) -> float:
    """Value of a field of this process's status, in MiB."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 2**10
    raise LookupError(f"/proc/self/status has no {name}")


class Process:
    """Side of one library, made at the first request."""

    def __init__(self) -> None:
        self._side: Any = None

    def __call__(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answers a request.

        Args:
          request: One of `{"start": job}`, for the facts of the side; `{"time": work, "steps":
            number}`; `{"memory": true}`; and `{"golden": folder}`, for PyTorch alone. A job
            has `side`, torch or jax; `dataset`; `batch_size`; `cores` to run on; and for jax
            `overrides` of the model's config.

        Raises:
          ValueError: For any other request.
        """
        match request:
            case {"start": job}:
                # Before a library counts the cores that it may use.
                os.sched_setaffinity(0, job["cores"])
                self._side = {"torch": TorchSide, "jax": JaxSide}[job["side"]](job)
                return self._side.facts()
            case {"time": work, "steps": steps}:
                return timed(self._side, work, steps)
            case {"golden": folder}:
                return self._side.golden(folder)
            case {"memory": True}:
                return memory(self._side)
        raise ValueError(f"unknown request {request!r}")
