"""Models of `sft_jax.modules` as ONNX graphs: raw values and masks in, outputs out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from sft_jax.export.onnx import pools
from sft_jax.export.onnx.graph import END, Graph
from sft_jax.export.onnx.layers import GraphTokens, Layers, Params
from sft_jax.export.program import standardisation
from sft_jax.export.written import Classifier
from sft_jax.ops.pool import POOLS

MASK = "_mask"
"""End of the names of the inputs that are masks."""

Streams = dict[str, GraphTokens]


def build(classifier: Classifier, *, any_k: bool) -> Graph:
    """Makes the graph of a model, whose output is called `outputs`.

    Its inputs are, for each modality, its name (`[batch, *lengths, features]` float32, raw) and
    its name with `_mask` (`[batch, *lengths]` booleans). With `any_k` there is one more, `k`: int64
    numbers of tokens kept, one for each modality, in the order of their names.

    Args:
      classifier: Model of `sft_jax.modules`, with its parameters and data.
      any_k: Whether `k` is an input.
    """
    model, graph = classifier.model, Graph()
    streams, layers = _inputs(graph, classifier)
    own = _Context(model, classifier.params, layers, any_k)
    logits = _MODELS[type(model).__name__](own, streams)
    match model.task:
        case "single_label" | "ordinal":
            graph.op("Softmax", logits, name="outputs", axis=-1)
        case "multi_label":
            graph.op("Sigmoid", logits, name="outputs")
        case _:
            graph.op("Identity", logits, name="outputs")
    return graph


def _inputs(graph: Graph, classifier: Classifier) -> tuple[Streams, Layers]:
    """Adds the inputs, their standardisation and tokens."""
    model = classifier.model
    names = sorted(model.mixed_modalities)
    batch = ""
    streams: Streams = {}
    for name in names:
        spec = model.modalities[name]
        values = graph.input(name, np.float32, ["batch", *spec.shape])
        mask = graph.input(name + MASK, np.bool_, ["batch", *spec.lengths])
        batch = batch or graph.slice(graph.op("Shape", values), 0, 1, 0)
        high, low, std = map(graph.constant, standardisation(classifier.info, name))
        values = graph.op("Sub", graph.op("Sub", values, high), low)
        values = graph.where(graph.unsqueeze(mask, len(spec.shape)), graph.op("Div", values, std))
        layers = Layers(graph, batch, model.width, model.num_heads)
        params = classifier.params[f"tokenizer_{name}"]
        streams[name] = layers.tokenize(spec, values, mask, params)
    return streams, layers


class _Context:
    """A model, its parameters and the layers of its graph.

    Attributes:
      model: Module.
      params: Parameters.
      layers: Layers of the model's width.
      graph: Graph.
    """

    def __init__(self, model: Any, params: Params, layers: Layers, any_k: bool) -> None:
        self.model, self.params, self.layers = model, params, layers
        self.graph = layers.graph
        self._k = ""
        if any_k:
            self._k = self.graph.input("k", np.int64, [len(model.modalities)])

    def kept(self, name: str) -> str:
        """Number of tokens to keep of a modality, as one integer."""
        position = sorted(self.model.modalities).index(name)
        return self.graph.slice(self._k, position, position + 1, 0)

    def unimodal(self, i: int, streams: Streams) -> Streams:
        """Applies block `i` of every modality."""
        return {
            name: self.layers.block(tokens, self.params[f"unimodal_{name}_{i}"])
            for name, tokens in streams.items()
        }

    def classify_each(self, streams: Streams) -> str:
        """Mean of the logits of each modality, of those that an example has."""
        layers, head = self.layers, self.params["head"]
        logits = [layers.head(layers.first(tokens), head) for tokens in streams.values()]
        return layers.mean_over_present(logits, [*map(layers.has, streams.values())])


def _late(own: _Context, streams: Streams) -> str:
    """`sft_jax.modules.simple_fusion.LateFusion`, and `Unimodal` for one modality."""
    for i in range(own.model.n_pre + own.model.n_post):
        streams = own.unimodal(i, streams)
    return own.classify_each(streams)


def _concat(own: _Context, streams: Streams) -> str:
    """`sft_jax.modules.simple_fusion.ConcatFusion`."""
    layers, start, starts = own.layers, 0, []
    for name in streams:
        starts.append(start)
        start += own.model.modalities[name].num_tokens + 1
    tokens = layers.join([*streams.values()])
    for i in range(own.model.n_pre + own.model.n_post):
        tokens = layers.block(tokens, own.params[f"fused_{i}"])
    cls = [layers.cut(tokens, start, start + 1) for start in starts]
    mean = layers.mean_over_present([*map(layers.first, cls)], [*map(layers.has, cls)])
    return layers.head(mean, own.params["head"])


def _bottleneck(own: _Context, streams: Streams) -> str:
    """`sft_jax.modules.mbt.BottleneckTransformer`."""
    layers, graph, model = own.layers, own.graph, own.model
    for i in range(model.n_pre):
        streams = own.unimodal(i, streams)
    count = model.num_bottlenecks
    real = layers.repeated(np.ones((1, count)), np.bool_)
    bottleneck = layers.repeated(own.params["bottleneck"]) if model.n_post else ""
    present = [*map(layers.has, streams.values())]
    for i in range(model.n_pre, model.n_pre + model.n_post):
        updates = []
        for name, tokens in streams.items():
            joined = layers.join([tokens, GraphTokens(bottleneck, real)])
            joined = layers.block(joined, own.params[f"unimodal_{name}_{i}"])
            length = model.modalities[name].num_tokens + 1
            streams[name] = layers.cut(joined, 0, length)
            updates.append(graph.slice(joined.values, length, END, 1))
        bottleneck = layers.mean_over_present(updates, present, axes=3)
    return own.classify_each(streams)


def _crossmodal(own: _Context, streams: Streams) -> str:
    """`sft_jax.modules.mult.CrossmodalTransformer`."""
    layers, graph, model, params = own.layers, own.graph, own.model, own.params
    joined: Streams = {}
    for name, tokens in streams.items():
        parts = []
        for other in sorted(set(streams) - {name}):
            stack = tokens
            for i in range(model.n_pre):
                layer = params[f"cross_{name}_with_{other}_{i}"]
                stack = _crossmodal_layer(layers, stack, streams[other], layer)
            parts.append(layers.norm(stack.values, params["cross_norm"]))
        joined[name] = tokens._replace(values=graph.op("Concat", *parts, axis=-1))
    wide = Layers(graph, layers.batch, layers.width * (len(streams) - 1), layers.num_heads)
    last = []
    for name, tokens in joined.items():
        for i in range(model.n_post):
            tokens = _crossmodal_layer(wide, tokens, tokens, params[f"self_{name}_{i}"])
        normed = wide.norm(wide.first(tokens), params["self_norm"])
        last.append(graph.where(wide.has(tokens), normed))
    token = graph.op("Concat", *last, axis=-1)
    hidden = graph.op("Relu", wide.dense(token, params["mlp_in"]))
    token = graph.op("Add", token, wide.dense(hidden, params["mlp_out"]))
    return wide.head(token, params["head"])


def _crossmodal_layer(
    layers: Layers, tokens: GraphTokens, source: GraphTokens, params: Params
) -> GraphTokens:
    """`sft_jax.modules.mult.CrossmodalLayer`."""
    queries, values = (layers.norm(t.values, params["attention_norm"]) for t in (tokens, source))
    attended = layers.cross_attention(queries, source._replace(values=values), params)
    values = layers.graph.op("Add", tokens.values, attended)
    hidden = layers.dense(layers.norm(values, params["mlp_norm"]), params["mlp_in"])
    hidden = layers.dense(layers.graph.op("Relu", hidden), params["mlp_out"])
    return tokens._replace(values=layers.graph.op("Add", values, hidden))


def _sft(own: _Context, streams: Streams) -> str:
    """`sft_jax.modules.sft.SparseFusionTransformer`."""
    layers, model, params = own.layers, own.model, own.params
    for i in range(model.n_pre):
        streams = own.unimodal(i, streams)
    present = [*map(layers.has, streams.values())]
    cls, kept = [], []
    for name, tokens in streams.items():
        token, pooled = _pooled(own, name, tokens)
        cls.append(token)
        kept += pooled
    tokens = layers.join([_entering(own, cls, present), *kept])
    count = len(cls) if model.readout == "modality_cls" else 1
    read = None if model.readout in ("mean", "attention") else count
    for i in range(model.n_post - 1):
        own_params = jax.tree.map(lambda stacked, i=i: np.asarray(stacked)[i], params["fused"])
        tokens = layers.block(tokens, own_params)
    if model.n_post:
        tokens = layers.block(tokens, params["fused_last"], read)
    match model.readout:
        case "modality_cls":
            token = layers.masked_mean(layers.cut(tokens, 0, count))
        case "mean":
            token = layers.masked_mean(tokens)
        case "attention":
            token = layers.first(pools.perceiver(layers, tokens, params["readout"]))
        case _:
            token = layers.first(tokens)
    return layers.head(token, params["head"])


def _pooled(own: _Context, name: str, tokens: GraphTokens) -> tuple[str, list[GraphTokens]]:
    """CLS of a modality, and its pooled tokens: a list of one, or of none."""
    layers, graph, model = own.layers, own.graph, own.model
    params = own.params[f"pooling_{name}"]
    attended, weights = layers.attention(tokens, params["attention"])
    tokens = tokens._replace(values=graph.op("Add", tokens.values, attended))
    others = layers.cut(tokens, 1, END)
    if model.pool == "none":
        return layers.first(tokens), [others]
    if model.pool in pools.LEARNED:
        if "reducer" not in params:  # It keeps no token.
            return layers.first(tokens), []
        learned = pools.LEARNED[model.pool](layers, others, params["reducer"][model.pool])
        return layers.first(tokens), [learned]
    saliency = None
    if "saliency" in POOLS[model.pool].needs:
        match model.saliency:
            case "learned":
                saliency = layers.scores(others, params["scorer"])
            case "from_cls":
                saliency = layers.cls_attention(weights)
            case _:
                saliency = layers.saliency(weights, tokens.mask)
    k = own.kept(name)
    # With k = 0 one token is pooled and cut off: windows and clusters can't be 0 in number.
    least = graph.op("Max", k, graph.integers(1))
    length = model.modalities[name].num_tokens
    weighted = model.saliency == "learned"
    choice = pools.Choice(graph, others, saliency, length, least, weighted)
    pooled = pools.pool(choice, model.pool)
    return layers.first(tokens), [layers.cut(pooled, 0, k)]


def _entering(own: _Context, cls: list[str], present: list[str]) -> GraphTokens:
    """CLS tokens that enter fusion."""
    layers, graph = own.layers, own.graph
    if own.model.readout == "modality_cls":
        values = graph.op("Concat", *(graph.unsqueeze(token, 1) for token in cls), axis=1)
        return GraphTokens(values, graph.op("Concat", *present, axis=1))
    real = layers.repeated(np.ones((1, 1)), np.bool_)
    if own.model.readout == "fresh_cls":
        return GraphTokens(layers.repeated(own.params["cls"]), real)
    return GraphTokens(graph.unsqueeze(layers.sum_over_present(cls, present), 1), real)


_MODELS: Mapping[str, Callable[[_Context, Streams], str]] = {
    "SparseFusionTransformer": _sft,
    "LateFusion": _late,
    "Unimodal": _late,
    "ConcatFusion": _concat,
    "BottleneckTransformer": _bottleneck,
    "CrossmodalTransformer": _crossmodal,
}
