"""Layers of `sft_jax.modules` as operators of an ONNX graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sft_jax.export.onnx.graph import END, Graph
from sft_jax.structs import ModalitySpec

Params = Mapping[str, Any]

_EPSILON = 1e-5  # Of all layer norms.


class GraphTokens(NamedTuple):
    """Names of the values that hold tokens; see `sft_jax.structs.Tokens`.

    Attributes:
      values: `[b, n, d]` float32.
      mask: `[b, n]` booleans.
      sizes: `[b, n]` float32, or None for 1 everywhere.
    """

    values: str
    mask: str
    sizes: str | None = None


class Layers:
    """Layers of one model, added to a graph.

    Attributes:
      graph: Graph.
      batch: Name of the value that holds the batch size, as one integer.
      width: Number of features of a token.
      num_heads: Number of attention heads.
    """

    def __init__(self, graph: Graph, batch: str, width: int, num_heads: int) -> None:
        """Adds nothing yet.

        Args:
          graph: Graph to add to.
          batch: See the attributes.
          width: See the attributes.
          num_heads: See the attributes.
        """
        self.graph, self.batch = graph, batch
        self.width, self.num_heads = width, num_heads

    def repeated(self, values: Any, dtype: Any = np.float32) -> str:
        """A constant of first axis 1, repeated for each example."""
        array = np.asarray(values, dtype)
        rest = self.graph.integers(*array.shape[1:])
        shape = self.graph.op("Concat", self.batch, rest, axis=0)
        return self.graph.op("Expand", self.graph.constant(array, dtype), shape)

    def dense(self, values: str, params: Params) -> str:
        """Dense layer; kernels with several axes of features become one."""
        kernel = np.asarray(params["kernel"])
        kernel = kernel.reshape(len(kernel), -1)
        product = self.graph.op("MatMul", values, self.graph.constant(kernel))
        if "bias" not in params:
            return product
        return self.graph.op("Add", product, self.graph.constant(np.ravel(params["bias"])))

    def norm(self, values: str, params: Params | None = None) -> str:
        """Layer norm over the features, with scale and bias if there are parameters."""
        ones = np.ones(self.width)
        scale, bias = (params["scale"], params["bias"]) if params else (ones, 0 * ones)
        terms = (self.graph.constant(scale), self.graph.constant(bias))
        return self.graph.op("LayerNormalization", values, *terms, axis=-1, epsilon=_EPSILON)

    def attention(
        self, tokens: GraphTokens, params: Params, first: int | None = None
    ) -> tuple[str, str]:
        """Self-attention; see `sft_jax.modules.attention.SelfAttention`.

        Returns:
          The attended values, and the weights `[b, h, q, n]`.
        """
        kernel, bias = (np.asarray(params["qkv"][name]) for name in ("kernel", "bias"))
        normed = self.norm(tokens.values)
        from_first = normed if first is None else self.graph.slice(normed, 0, first, 1)
        query = self.dense(from_first, {"kernel": kernel[:, 0], "bias": bias[0]})
        both = self.dense(normed, {"kernel": kernel[:, 1:], "bias": bias[1:]})
        halves = self.graph.integers(self.width, self.width)
        key, value = self.graph.several("Split", both, halves, outputs=2, axis=-1)
        return self.attend(query, key, value, tokens, params["out"])

    def cross_attention(self, values: str, source: GraphTokens, params: Params) -> str:
        """Attention of normed values to normed tokens; see `modules.attention.cross_attention`."""
        query = self.dense(values, params["query"])
        key, value = (self.dense(source.values, params[name]) for name in ("key", "value"))
        return self.attend(query, key, value, source, params["out"])[0]

    def attend(
        self, query: str, key: str, value: str, source: GraphTokens, out: Params
    ) -> tuple[str, str]:
        """Scaled dot-product attention and its output layer."""
        graph, size = self.graph, self.width // self.num_heads
        scaled = graph.op("Mul", self._heads(query, [0, 2, 1, 3]), graph.constant(size**-0.5))
        logits = graph.op("MatMul", scaled, self._heads(key, [0, 2, 3, 1]))
        if source.sizes is not None:
            sizes = graph.op("Log", graph.where(source.mask, source.sizes, 1.0))
            logits = graph.op("Add", logits, graph.unsqueeze(sizes, 1, 2))
        weights = graph.softmax(logits, graph.unsqueeze(source.mask, 1, 2))
        attended = graph.op("MatMul", weights, self._heads(value, [0, 2, 1, 3]))
        attended = graph.op("Transpose", attended, perm=[0, 2, 1, 3])
        return self.dense(graph.reshape(attended, 0, 0, self.width), out), weights

    def _heads(self, values: str, order: list[int]) -> str:
        size = self.width // self.num_heads
        heads = self.graph.reshape(values, 0, 0, self.num_heads, size)
        return self.graph.op("Transpose", heads, perm=order)

    def saliency(self, weights: str, mask: str) -> str:
        """Attention that each token after CLS receives; see `sft_jax.ops.attention.plain`."""
        graph = self.graph
        real = graph.slice(mask, 1, END, 1)
        queries = graph.to_float(real)
        for axis in (2, 3):
            weights = graph.slice(weights, 1, END, axis)
        received = graph.sum(graph.op("Mul", weights, graph.unsqueeze(queries, 1, 3)), 1, 2)
        count = graph.maximum(graph.sum(queries, 1, keep=True), 1.0)
        divisor = graph.op("Mul", count, graph.constant(float(self.num_heads)))
        return graph.where(real, graph.op("Div", received, divisor))

    def cls_attention(self, weights: str) -> str:
        """Attention of CLS to each token after it; see `sft_jax.ops.attention.plain`."""
        graph = self.graph
        row = graph.slice(graph.slice(weights, 0, 1, 2), 1, END, 3)
        return graph.op("Div", graph.sum(row, 1, 2), graph.constant(float(self.num_heads)))

    def scores(self, tokens: GraphTokens, params: Params) -> str:
        """Learned saliency; see `sft_jax.modules.scorer.Scorer`."""
        graph = self.graph
        values = graph.where(graph.unsqueeze(tokens.mask, 2), tokens.values)
        scores = self.dense(self.norm(values, params["norm"]), params["score"])
        return graph.softmax(graph.squeeze(scores, 2), tokens.mask)

    def block(self, tokens: GraphTokens, params: Params, first: int | None = None) -> GraphTokens:
        """Transformer block; see `sft_jax.modules.block.Block`."""
        attended, _ = self.attention(tokens, params["attention"], first)
        if first is not None:
            tokens = self.cut(tokens, 0, first)
        values = self.graph.op("Add", tokens.values, attended)
        hidden = self.dense(self.norm(values, params["mlp_norm"]), params["mlp_in"])
        hidden = self.dense(self.graph.op("Relu", hidden), params["mlp_out"])
        return tokens._replace(values=self.graph.op("Add", values, hidden))

    def cut(self, tokens: GraphTokens, start: int, end: int | str) -> GraphTokens:
        """Tokens from `start` to `end`."""
        parts = (None if part is None else self.graph.slice(part, start, end, 1) for part in tokens)
        return GraphTokens(*parts)  # type: ignore[arg-type]

    def first(self, tokens: GraphTokens) -> str:
        """Values of the first token, `[b, d]`."""
        return self.graph.squeeze(self.graph.slice(tokens.values, 0, 1, 1), 1)

    def has(self, tokens: GraphTokens) -> str:
        """Mask of the examples that have the modality, `[b, 1]`: that of CLS."""
        return self.graph.slice(tokens.mask, 0, 1, 1)

    def join(self, sequences: Sequence[GraphTokens]) -> GraphTokens:
        """Puts sequences one after the other; see `sft_jax.ops.modalities.join`."""
        sizes = None
        if any(tokens.sizes is not None for tokens in sequences):
            own = [tokens.sizes or self._sizes_of_one(tokens) for tokens in sequences]
            sizes = self.graph.op("Concat", *own, axis=1)
        values = self.graph.op("Concat", *(tokens.values for tokens in sequences), axis=1)
        mask = self.graph.op("Concat", *(tokens.mask for tokens in sequences), axis=1)
        return GraphTokens(values, mask, sizes)

    def _sizes_of_one(self, tokens: GraphTokens) -> str:
        return self.graph.maximum(self.graph.to_float(tokens.mask), 1.0)

    def sum_over_present(self, values: Sequence[str], present: Sequence[str]) -> str:
        """Sum over the modalities that an example has, of `[b, ...]` values and `[b, 1]` masks."""
        terms = [self.graph.where(has, own) for own, has in zip(values, present, strict=True)]
        return self.graph.op("Sum", *terms)

    def mean_over_present(
        self, values: Sequence[str], present: Sequence[str], axes: int = 2
    ) -> str:
        """Mean over the modalities that an example has; 0 without any.

        Args:
          values: Arrays, the examples first.
          present: `[b, 1]` masks.
          axes: Number of axes of the arrays.
        """
        if more := range(2, axes):
            present = [self.graph.unsqueeze(has, *more) for has in present]
        count = self.graph.op("Sum", *map(self.graph.to_float, present))
        total = self.sum_over_present(values, present)
        return self.graph.op("Div", total, self.graph.maximum(count, 1.0))

    def masked_mean(self, tokens: GraphTokens) -> str:
        """Mean over the real tokens, `[b, d]`; 0 without any."""
        graph = self.graph
        total = graph.sum(graph.where(graph.unsqueeze(tokens.mask, 2), tokens.values), 1)
        count = graph.maximum(graph.sum(graph.to_float(tokens.mask), 1, keep=True), 1.0)
        return graph.op("Div", total, count)

    def tokenize(self, spec: ModalitySpec, values: str, mask: str, params: Params) -> GraphTokens:
        """Patches, their projection, CLS and positions; see `sft_jax.modules.tokenizer`."""
        patches, real = patchify(self.graph, spec, values, mask)
        cls = self.repeated(params["cls"])
        tokens = self.graph.op("Concat", cls, self.dense(patches, params["projection"]), axis=1)
        tokens = self.graph.op("Add", tokens, self.graph.constant(params["position"]))
        present = self.graph.any(real, 1, keep=True)
        return GraphTokens(tokens, self.graph.op("Concat", present, real, axis=1))

    def head(self, token: str, params: Params) -> str:
        """Outputs of a token; see `sft_jax.modules.head`."""
        normed = self.norm(token, params["norm"])
        if "classifier" in params:
            return self.dense(normed, params["classifier"])
        stored = np.asarray(params["thresholds"], np.float64)
        gaps = np.logaddexp(0, stored[1:])
        thresholds = np.cumsum(np.concatenate([stored[:1], gaps]))
        between = np.pad(-np.logaddexp(0, -stored[1:]), 1)
        graph, score = self.graph, self.dense(normed, params["score"])
        distance = graph.op("Sub", graph.constant(thresholds[None]), score)
        # log sigmoid(u) = -softplus(-u)
        below = graph.op("Softplus", graph.op("Neg", distance))
        above = graph.op("Softplus", distance)
        below = graph.op("Pad", below, graph.integers(0, 0, 0, 1))
        above = graph.op("Pad", above, graph.integers(0, 1, 0, 0))
        return graph.op("Sub", graph.constant(between[None]), graph.op("Add", below, above))


def patchify(graph: Graph, spec: ModalitySpec, values: str, mask: str) -> tuple[str, str]:
    """Cuts examples into patches; see `sft_jax.modules.tokenizer.patchify`.

    Returns:
      `[b, n, size * features]` values, and the `[b, n]` mask.
    """
    pairs = [*zip(spec.lengths, spec.patch_sizes, strict=True)]
    counts = [-(-length // size) for length, size in pairs]
    fill = [count * size - length for count, (length, size) in zip(counts, pairs, strict=True)]
    # Padding and transposing are of floats in every runtime.
    real = graph.unsqueeze(graph.to_float(mask), len(pairs) + 1)
    if any(fill):
        pads = graph.integers(*[0] * (len(fill) + 2), 0, *fill, 0)
        values, real = graph.op("Pad", values, pads), graph.op("Pad", real, pads)
    split = [n for count, (_, size) in zip(counts, pairs, strict=True) for n in (count, size)]
    axes = range(1, len(split) + 1)
    order = [0, *axes[::2], *axes[1::2], len(split) + 1]
    count, size = math.prod(counts), math.prod(spec.patch_sizes)

    def patches(array: str, features: int) -> str:
        array = graph.reshape(array, 0, *split, features)
        array = graph.op("Transpose", array, perm=order)
        return graph.reshape(array, 0, count, size * features)

    return patches(values, spec.features), graph.any(patches(real, 1), 2)
