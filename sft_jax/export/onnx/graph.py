"""An ONNX graph that is written node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
"""Version of the operators; 17 is the first that has LayerNormalization."""

_IR_VERSION = 8  # Of the time of opset 17, for older runtimes.

END = np.iinfo(np.int32).max
"""End of a slice to the last element."""

_NO_WEIGHT = float(np.finfo(np.float32).min)


class Graph:
    """Nodes, constants and inputs of a graph; a value is known by its name.

    Equal constants are stored once.
    """

    def __init__(self) -> None:
        """Makes an empty graph."""
        self._nodes: list[Any] = []
        self._constants: dict[tuple[Any, ...], Any] = {}
        self._inputs: list[Any] = []

    def input(self, name: str, dtype: Any, shape: list[Any]) -> str:
        """Adds an input of the graph; a text in `shape` is a size that is open."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Adds a constant."""
        # `ascontiguousarray` would give a number an axis.
        array = np.asarray(values, dtype, order="C")
        key = (array.tobytes(), array.shape, array.dtype.str)
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"c{len(self._constants)}")
        name: str = self._constants[key].name
        return name

    def integers(self, *values: int) -> str:
        """Adds a constant of integers with one axis."""
        return self.constant(values, np.int64)

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Adds an operator with one output, and returns its name."""
        output = name or f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def several(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Adds an operator with several outputs."""
        names = [f"v{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def slice(self, values: str, start: int, end: int | str, axis: int) -> str:
        """Elements `start` to `end` of an axis; the end may be a value of one integer."""
        stop = end if isinstance(end, str) else self.integers(end)
        return self.op("Slice", values, self.integers(start), stop, self.integers(axis))

    def unsqueeze(self, values: str, *axes: int) -> str:
        """Adds axes of size 1."""
        return self.op("Unsqueeze", values, self.integers(*axes))

    def squeeze(self, values: str, *axes: int) -> str:
        """Removes axes of size 1."""
        return self.op("Squeeze", values, self.integers(*axes))

    def reshape(self, values: str, *shape: int) -> str:
        """Changes the shape; 0 keeps the size of that axis, and -1 is what is left."""
        return self.op("Reshape", values, self.integers(*shape))

    def sum(self, values: str, *axes: int, keep: bool = False) -> str:
        """Sum over axes."""
        return self.op("ReduceSum", values, self.integers(*axes), keepdims=int(keep))

    def to_float(self, values: str) -> str:
        """Converts to float32."""
        return self.op("Cast", values, to=TensorProto.FLOAT)

    def to_integer(self, values: str) -> str:
        """Converts to int64."""
        return self.op("Cast", values, to=TensorProto.INT64)

    def any(self, mask: str, axis: int, *, keep: bool = False) -> str:
        """True where any element of a mask along an axis is."""
        most = self.op("ReduceMax", self.to_float(mask), axes=[axis], keepdims=int(keep))
        return self.op("Greater", most, self.constant(0.0))

    def count(self, mask: str, axis: int) -> str:
        """Number of elements that are True along an axis, which is kept, as int64."""
        return self.sum(self.to_integer(mask), axis, keep=True)

    def where(self, mask: str, values: str, other: float = 0.0) -> str:
        """Values where a mask is True, and a number elsewhere."""
        return self.op("Where", mask, values, self.constant(other))

    def either(self, mask: str, values: str, others: str) -> str:
        """Values where a mask is True, and other values elsewhere."""
        return self.op("Where", mask, values, others)

    def maximum(self, values: str, least: float) -> str:
        """The larger of float32 values and a number."""
        return self.op("Max", values, self.constant(least))

    def softmax(self, logits: str, mask: str) -> str:
        """`sft_jax.ops.attention.plain.masked_softmax`."""
        weights = self.op("Softmax", self.where(mask, logits, _NO_WEIGHT), axis=-1)
        return self.where(mask, weights)

    def model(self, output: str, shape: list[Any], metadata: dict[str, str]) -> Any:
        """Makes the checked model of the graph.

        Args:
          output: Name of the output, in float32.
          shape: Its shape.
          metadata: Texts that the model carries.
        """
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        graph = helper.make_graph(
            self._nodes, "sft_jax", self._inputs, [result], [*self._constants.values()]
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="sft_jax",
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model
