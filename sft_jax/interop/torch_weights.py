"""Loads the authors' PyTorch checkpoints into our models, and reports on each tensor."""

from __future__ import annotations

import os
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import DTypeLike

from sft_jax.interop.torch_names import SLOTS, parameter_sources, slot_problems
from sft_jax.interop.weights_report import Report, compare
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.structs import AnyArray


class WeightsError(ValueError):
    """Error for a checkpoint that cannot be read or does not fit the model."""


def load_torch_weights(
    source: str | os.PathLike[str] | Mapping[str, AnyArray],
    model: MultimodalClassifier,
    *,
    modality_names: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    strict: bool = True,
    dtype: DTypeLike | None = np.float32,
) -> tuple[dict[str, Any], Report]:
    """Converts a `state_dict` of the authors' code to parameters of `model`.

    The logits equal those of the authors' code if the model reproduces that code, which the
    attributes `faithful` and `reference_windows` of the models select. A `state_dict` is not a
    full description: for a unimodal model it does not name the modality that was trained on.

    Args:
      source: File, as in `read_state_dict`, or names and arrays. The prefix "module.", which
        `DataParallel` adds, is removed if all names have it.
      model: Model that the parameters are for.
      modality_names: Mapping from the authors' slot, "rgb", "spec" or "text", to our name. For
        MOSEI it is `{"rgb": "vision", "spec": "audio", "text": "text"}`. By default the names
        are equal. MulT, the faithful MBT and early fusion in windows depend on the order of
        modalities. Our models order modalities by name, so some names do not fit.
      params: Parameters to keep where the file's are missing or misshapen, if not `strict`.
      strict: Whether any missing, misshapen or unexpected tensor is an error.
      dtype: Dtype of the parameters; None for the dtype of the file.

    Returns:
      Parameters as numpy arrays, for `model.apply({"params": params}, ...)`, and a report on
      each tensor.

    Raises:
      WeightsError: If the file is not a plain `state_dict`, or `modality_names` do not fit. With
        `strict`, if any tensor is missing, misshapen or unexpected. Without, if `params` do not
        replace a missing or misshapen one.
      TypeError: If the authors' code has no such model.
    """
    initial = jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())["params"]
    shapes = {path: leaf.shape for path, leaf in flatten_dict(initial).items()}
    if modality_names is None:
        modality_names = {slot: slot for slot in SLOTS if slot in model.modalities}
    if problems := slot_problems(model, modality_names):
        raise WeightsError(f"modality_names={dict(modality_names)}: " + "; ".join(problems))
    sources = parameter_sources(model, modality_names)
    name = "the state_dict"
    if isinstance(source, str | os.PathLike):
        name, source = str(source), read_state_dict(source)
    state = _without_prefix(source)
    report = compare(state, model, shapes, sources)
    problem = f"{name} does not fit {type(model).__name__}; {report.summary()}"
    if strict and (report.missing or report.misshapen or report.unexpected):
        raise WeightsError(f"{problem}\n{report.table('missing', 'misshapen', 'unexpected')}")
    flat = {}
    for path in (row.path for row in report.loaded):
        tensors = [np.asarray(state[name]) for name in sources[path].tensors]
        flat[path] = np.asarray(sources[path].build(tensors), dtype, order="C")
    kept = flatten_dict(params or {})
    for path in (row.path for row in report.missing + report.misshapen):
        if path not in kept or kept[path].shape != shapes[path]:
            raise WeightsError(
                f"{problem}; with strict=False, what is missing or misshapen is taken from"
                f" `params`, which have no {'/'.join(path)} of shape {list(shapes[path])}"
                f"\n{report.table('missing', 'misshapen')}"
            )
        flat[path] = kept[path]
    return unflatten_dict(flat), report


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads names and tensors from a `.pth`, `.pt` or `.npz` file.

    The first two require torch (the extra `torch`). Code in the file is never run.
    bfloat16, which numpy lacks, becomes float32.

    Args:
      path: Path of the file.

    Raises:
      OSError: If the file does not exist or can't be read.
      ModuleNotFoundError: If torch is needed but not installed.
      WeightsError: If the file has another ending, is damaged, or holds something other than
        tensors by name.
    """
    path = pathlib.Path(path)
    readers = {".npz": _read_npz, ".pth": _read_torch, ".pt": _read_torch}
    if path.suffix not in readers:
        raise WeightsError(f"{path}: the name must end in one of {', '.join(readers)}")
    # Opening the file first raises the system's errors. torch.load also raises an OSError if half
    # of the file is missing, and that error does not name the file.
    path.open("rb").close()
    try:
        return readers[path.suffix](path)
    except (WeightsError, ImportError, MemoryError):
        raise
    # The readers raise errors of many types for damaged files, KeyError among them.
    except Exception as error:
        raise WeightsError(
            f"{path} is damaged, or no {path.suffix} file: {type(error).__name__}: {error}"
        ) from error


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    # np.load leaves the file of a damaged archive open, so this function opens and closes it.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModuleNotFoundError(
            f"reading {path} needs torch: pip install 'sft_jax[torch]'", name="torch"
        ) from error
    recipe = (
        "save the model's state_dict() alone: torch.save(model.state_dict(), FILE), or for a"
        " checkpoint that you trust torch.save(torch.load(CHECKPOINT, weights_only=False)"
        "['model'], FILE)"
    )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors, as the checkpoints of the authors' scripts do, or is"
            f" damaged, and torch does not load it with weights_only=True; {recipe}"
        ) from error
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} holds no state_dict, but a {type(state).__name__}; {recipe}")
    others = [
        f"{name!r} ({type(value).__name__})"
        for name, value in state.items()
        if not (isinstance(name, str) and isinstance(value, torch.Tensor))
    ]
    if others:
        raise WeightsError(f"{path} holds more than tensors: {', '.join(others)}; {recipe}")
    return {
        name: (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
        for name, value in state.items()
    }


def _without_prefix(state: Mapping[str, AnyArray]) -> Mapping[str, AnyArray]:
    prefix = "module."
    if not all(name.startswith(prefix) for name in state):
        return state
    return {name.removeprefix(prefix): value for name, value in state.items()}
