"""Loads the authors' PyTorch checkpoints into our models, and says what became of each tensor."""

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

from sft_jax.interop.torch_names import SLOTS, slot_problems, sources
from sft_jax.interop.weights_report import Report, compare
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.structs import AnyArray


class WeightsError(ValueError):
    """A checkpoint that cannot be read, or that does not fit the model."""


def load_torch_weights(
    source: str | os.PathLike[str] | Mapping[str, AnyArray],
    model: MultimodalClassifier,
    *,
    modality_names: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    strict: bool = True,
    dtype: DTypeLike | None = np.float32,
) -> tuple[dict[str, Any], Report]:
    """Makes parameters for `model` of a `state_dict` of the authors' code.

    For the same logits as theirs the model must compute what their code does: `faithful` and
    `reference_windows` of the models say so. Not all of it shows in a `state_dict`; a
    unimodal one, say, does not tell for which modality it was trained.

    Args:
      source: a file, as for `read_state_dict`, or names and arrays. If all names begin with
        "module.", which `DataParallel` adds, that is taken off.
      model: what the parameters are for.
      modality_names: the authors' slots "rgb", "spec" and "text" to the names of the model's
        modalities, such as `{"rgb": "vision", "spec": "audio", "text": "text"}` for MOSEI;
        by default the same names. MulT, the faithful MBT and early fusion in windows depend
        on the order of modalities, which ours take by name: for them not all names will do.
      params: parameters to keep where they are missing or misshapen, if not `strict`.
      strict: whether anything missing, misshapen or unexpected is an error.
      dtype: of the parameters; None for that of the file.

    Returns:
      The parameters, as arrays of numpy for `model.apply({"params": params}, ...)`, and what
      became of each tensor.

    Raises:
      WeightsError: for a file that holds anything but a `state_dict`, names of modalities
        that do not fit, anything missing, misshapen or unexpected if `strict`, and anything
        missing or misshapen that `params` do not have if not.
      TypeError: for a model that the authors do not have.
    """
    initial = jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())["params"]
    shapes = {path: leaf.shape for path, leaf in flatten_dict(initial).items()}
    if modality_names is None:
        modality_names = {slot: slot for slot in SLOTS if slot in model.modalities}
    if problems := slot_problems(model, modality_names):
        raise WeightsError(f"modality_names={dict(modality_names)}: " + "; ".join(problems))
    made_of = sources(model, modality_names)
    what = "the state_dict"
    if isinstance(source, str | os.PathLike):
        what, source = str(source), read_state_dict(source)
    state = _without_prefix(source)
    report = compare(state, model, shapes, made_of)
    problem = f"{what} does not fit {type(model).__name__}; {report.summary()}"
    if strict and (report.missing or report.misshapen or report.unexpected):
        raise WeightsError(f"{problem}\n{report.table('missing', 'misshapen', 'unexpected')}")
    flat = {}
    for path in (row.path for row in report.loaded):
        tensors = [np.asarray(state[name]) for name in made_of[path].tensors]
        flat[path] = np.asarray(made_of[path].build(tensors), dtype, order="C")
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

    The first two are read with torch (the extra `torch`), which is not let run any code of
    the file. bfloat16, which numpy lacks, becomes float32.

    Raises:
      OSError: if the file is not there or may not be read.
      ModuleNotFoundError: if torch is needed and not installed.
      WeightsError: for another ending, a damaged file, and a file that holds anything but
        tensors by name.
    """
    path = pathlib.Path(path)
    readers = {".npz": _read_npz, ".pth": _read_torch, ".pt": _read_torch}
    if path.suffix not in readers:
        raise WeightsError(f"{path}: the name must end in one of {', '.join(readers)}")
    # What the system has against the file is found here: torch.load also raises an OSError,
    # which does not name the file, if half of it is missing.
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
    # Opened here, because np.load leaves the file of a damaged archive open.
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
        "save the model's state_dict() alone: torch.save(model.state_dict(), FILE), or of a"
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
