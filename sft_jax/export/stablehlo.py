"""Export as a serialised StableHLO program, for a batch of any size, for CPUs, GPUs and TPUs.

The file is a zip archive of two members: `program`, the result of `jax.export`, and
`metadata.json`. To run it takes jax alone:

    with zipfile.ZipFile("model.stablehlo") as file:
        program = jax.export.deserialize(bytearray(file.read("program")))
    probabilities = program.call(inputs, masks)
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import export

from sft_jax.export import written
from sft_jax.export.program import raw_program
from sft_jax.export.written import Classifier, Written
from sft_jax.runs import storage

PLATFORMS = ("cpu", "cuda", "tpu")

_CUDNN = [
    export.DisabledSafetyCheck.custom_call(f"__cudnn$fmha{kind}{direction}")
    for kind in ("Softmax", "ScaleBiasSoftmax")
    for direction in ("", "Backward")
]
"""Calls that JAX does not vouch for. The attention kernel `cudnn` makes them."""


def write(
    classifier: Classifier,
    path: str | os.PathLike[str],
    *,
    k: int | Mapping[str, int] | None = None,
    quantize: str | None = None,
) -> Written:
    """Writes a model as a serialised program; see `sft_jax.export.write`."""
    classifier = written.with_k(classifier, k)
    (batch,) = export.symbolic_shape("batch")
    run = export.export(
        jax.jit(raw_program(classifier)), platforms=PLATFORMS, disabled_checks=_CUDNN
    )
    description = json.dumps(written.metadata(classifier, "stablehlo"), indent=2)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("program", bytes(run(*_shapes(classifier, batch)).serialize()))
        file.writestr("metadata.json", description)
    storage.write_whole(pathlib.Path(path), archive.getvalue())
    return read(path)


def read(path: str | os.PathLike[str]) -> Written:
    """Opens an exported program; see `sft_jax.export.read`."""
    try:
        with zipfile.ZipFile(path) as file:
            metadata = file.read("metadata.json")
            program = file.read("program")
    except (zipfile.BadZipFile, KeyError) as error:
        raise written.ExportedFileError(
            f"{path} is not a file of --format=stablehlo: {error}"
        ) from None
    description = written.read_metadata(metadata, "stablehlo", path)
    try:
        call = jax.jit(export.deserialize(bytearray(program)).call)
    except Exception as error:  # A damaged program raises errors of many kinds.
        raise written.ExportedFileError(
            f"{path}: its program is damaged, or this JAX can't read it: {error}"
        ) from error

    def run(
        inputs: dict[str, np.ndarray], masks: dict[str, np.ndarray], k: dict[str, int] | None
    ) -> Any:
        return call(inputs, masks)

    return Written(pathlib.Path(path), description, run)


def text(
    classifier: Classifier, *, batch_size: int = 1, k: int | Mapping[str, int] | None = None
) -> str:
    """StableHLO text of a model for one batch size, as the compilers of LiteRT and IREE read it.

    The arguments of its function are the inputs by name, then the masks by name.

    Args:
      classifier: Model with its parameters and data.
      batch_size: Number of examples.
      k: See `sft_jax.export.write`.
    """
    classifier = written.with_k(classifier, k)
    program = jax.jit(raw_program(classifier))
    traced = program.trace(*_shapes(classifier, batch_size))
    return traced.lower(lowering_platforms=("cpu",)).as_text()


def _shapes(classifier: Classifier, batch: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    model = classifier.model
    specs = {name: model.modalities[name] for name in model.mixed_modalities}
    inputs = {n: jax.ShapeDtypeStruct((batch, *s.shape), np.float32) for n, s in specs.items()}
    masks = {n: jax.ShapeDtypeStruct((batch, *s.lengths), bool) for n, s in specs.items()}
    return inputs, masks
