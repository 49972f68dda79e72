"""Export as an ONNX graph of standard operators, for a batch of any size and any `k`.

Inputs of the graph are raw values and a mask of each modality, and `k`
(`sft_jax.export.onnx.models.build`); its output is `outputs`. The metadata are JSON, in the
property `sft_jax`, with the names of the classes. Any runtime of opset 17 runs it.
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from sft_jax.export import written
from sft_jax.export.onnx.models import MASK, build
from sft_jax.export.written import Classifier, Written
from sft_jax.runs import storage

_PROPERTY = "sft_jax"


def write(
    classifier: Classifier,
    path: str | os.PathLike[str],
    *,
    k: int | Mapping[str, int] | None = None,
    quantize: str | None = None,
) -> Written:
    """Writes a model as an ONNX graph; see `sft_jax.export.write`.

    With `int8` the kernels of dense layers are stored in 8 bits, with one scale for each feature.
    Their inputs are rounded when the graph runs. `k` is the default that the metadata name.
    """
    classifier = written.with_k(classifier, k)
    metadata = written.metadata(classifier, "onnx", any_k=True)
    graph = build(classifier, any_k=metadata["k_most"] is not None)
    outputs = len(classifier.info.class_names)
    model = graph.model("outputs", ["batch", outputs], {_PROPERTY: json.dumps(metadata)})
    content = _quantized(model) if quantize else model.SerializeToString()
    storage.write_whole(pathlib.Path(path), content)
    return read(path)


def read(path: str | os.PathLike[str]) -> Written:
    """Opens an exported graph in onnxruntime; see `sft_jax.export.read`."""
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # Errors of onnxruntime have no common class.
        raise written.ExportedFileError(f"{path} is no graph that runs: {error}") from error
    properties = session.get_modelmeta().custom_metadata_map
    description = written.read_metadata(properties.get(_PROPERTY), "onnx", path)

    def run(
        inputs: dict[str, np.ndarray], masks: dict[str, np.ndarray], k: dict[str, int] | None
    ) -> Any:
        feed = inputs | {name + MASK: mask for name, mask in masks.items()}
        if k is not None and description["k_most"] is not None:
            feed["k"] = np.array([k[name] for name in sorted(k)], np.int64)
        return session.run(None, feed)[0]

    return Written(pathlib.Path(path), description, run)


def _quantized(model: onnx.ModelProto) -> bytes:
    properties = {entry.key: entry.value for entry in model.metadata_props}
    # Otherwise it warns; there is nothing to prepare in a graph of these operators.
    add_pre_process_metadata(model)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "int8.onnx"
        quantize_dynamic(model, file, weight_type=QuantType.QInt8, per_channel=True)
        model = onnx.load(file)
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
