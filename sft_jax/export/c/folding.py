"""Parameters of a Sparse Fusion Transformer, folded into as few numbers as they need.

Scales and biases of layer norms go into the layers that follow them, and `1/sqrt(e)` into the
queries. A bias of keys adds the same to all logits of a query, so it has no effect. Attention
weights sum to 1, so the bias of values goes into the projection after them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from sft_jax.modules.sft import SparseFusionTransformer


@dataclasses.dataclass(frozen=True)
class Layer:
    """A linear layer: `[inputs, outputs]` kernel and `[outputs]` bias or None, in float64."""

    kernel: np.ndarray
    bias: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Attention:
    """Self-attention after a layer norm without parameters.

    Attributes:
      query: Layer of the queries, scaled by `1/sqrt(e)`.
      key_value: Layer of the keys, then the values.
      out: Projection of the attended values.
    """

    query: Layer
    key_value: Layer
    out: Layer


@dataclasses.dataclass(frozen=True)
class Block:
    """A transformer block, whose norms have no parameters."""

    attention: Attention
    mlp_in: Layer
    mlp_out: Layer


@dataclasses.dataclass(frozen=True)
class Modality:
    """Parameters of one modality: `cls` holds its position, `position` those of the tokens."""

    cls: np.ndarray
    position: np.ndarray
    projection: Layer
    blocks: tuple[Block, ...]
    pooling: Attention


@dataclasses.dataclass(frozen=True)
class LearnedQuery:
    """The learned query of the readout `attention`.

    Attributes:
      query: `[heads, width]`, products of the query and the kernel of the keys.
      values: Layer of the values of each head, over normed tokens.
      out: Projection of the attended values; its bias holds the query itself.
    """

    query: np.ndarray
    values: tuple[Layer, ...]
    out: Layer


@dataclasses.dataclass(frozen=True)
class Folded:
    """Parameters of a model; None for those that it has not.

    Attributes:
      modalities: Parameters by modality, in the order of the names.
      fused: Blocks from fusion on.
      classifier: Last layer; of an ordinal head the one that gives the score.
      fresh_cls: `[width]` learned token of the readout `fresh_cls`.
      readout: Query of the readout `attention`.
      thresholds: `[classes - 1]` thresholds of an ordinal head.
      gaps: `[classes]` factors of the probabilities of an ordinal head.
    """

    modalities: Mapping[str, Modality]
    fused: tuple[Block, ...]
    classifier: Layer
    fresh_cls: np.ndarray | None = None
    readout: LearnedQuery | None = None
    thresholds: np.ndarray | None = None
    gaps: np.ndarray | None = None


def fold(model: SparseFusionTransformer, params: Mapping[str, Any]) -> Folded:
    """Folds the parameters of a model.

    Args:
      model: Model.
      params: Its parameters, by the names of its modules.
    """
    params = _as_float64(params)
    heads = model.num_heads
    stacked = [_at(params["fused"], i) for i in range(model.n_post - 1)]
    last = [params["fused_last"]] if model.n_post else []
    head = params["head"]
    ordinal = model.task == "ordinal"
    classifier = _linear(head["score" if ordinal else "classifier"], head["norm"])
    return Folded(
        modalities={
            name: _modality(name, params, model.n_pre, heads) for name in sorted(model.modalities)
        },
        fused=tuple(_block(block, heads) for block in stacked + last),
        classifier=classifier,
        fresh_cls=params["cls"].reshape(-1) if model.readout == "fresh_cls" else None,
        readout=_learned_query(params["readout"], heads) if model.readout == "attention" else None,
        thresholds=_thresholds(head["thresholds"]) if ordinal else None,
        gaps=_gaps(head["thresholds"]) if ordinal else None,
    )


def _as_float64(params: Mapping[str, Any]) -> Any:
    return {
        name: _as_float64(value) if isinstance(value, Mapping) else np.asarray(value, np.float64)
        for name, value in params.items()
    }


def _at(params: Mapping[str, Any], i: int) -> Any:
    """Parameters of one of several equal blocks, which have a first axis for the block."""
    return {
        name: _at(value, i) if isinstance(value, Mapping) else value[i]
        for name, value in params.items()
    }


def _linear(params: Mapping[str, Any], norm: Mapping[str, Any] | None = None) -> Layer:
    """Folds the scale and bias of the layer norm before a layer into it."""
    kernel = params["kernel"]
    layer = Layer(kernel, params.get("bias"))
    if norm is None:
        return layer
    return _with_bias(Layer(norm["scale"][:, None] * kernel, layer.bias), norm["bias"] @ kernel)


def _with_bias(layer: Layer, added: np.ndarray) -> Layer:
    return Layer(layer.kernel, added if layer.bias is None else layer.bias + added)


def _attention(params: Mapping[str, Any], heads: int) -> Attention:
    kernel, bias = params["qkv"]["kernel"], params["qkv"]["bias"]
    width = len(kernel)
    scale = (width // heads) ** -0.5
    out = _linear(params["out"])
    return Attention(
        query=Layer(scale * kernel[:, 0], scale * bias[0]),
        key_value=Layer(kernel[:, 1:].reshape(width, 2 * width)),
        out=_with_bias(out, bias[2] @ out.kernel),
    )


def _block(params: Mapping[str, Any], heads: int) -> Block:
    return Block(
        attention=_attention(params["attention"], heads),
        mlp_in=_linear(params["mlp_in"], params["mlp_norm"]),
        mlp_out=_linear(params["mlp_out"]),
    )


def _modality(name: str, params: Mapping[str, Any], n_pre: int, heads: int) -> Modality:
    tokenizer = params[f"tokenizer_{name}"]
    position = tokenizer["position"][0]
    return Modality(
        cls=tokenizer["cls"].reshape(-1) + position[0],
        position=position[1:],
        projection=_linear(tokenizer["projection"]),
        blocks=tuple(_block(params[f"unimodal_{name}_{i}"], heads) for i in range(n_pre)),
        pooling=_attention(params[f"pooling_{name}"]["attention"], heads),
    )


def _apply(layer: Layer, values: np.ndarray) -> np.ndarray:
    product = values @ layer.kernel
    return product if layer.bias is None else product + layer.bias


def _learned_query(params: Mapping[str, Any], heads: int) -> LearnedQuery:
    learned = params["queries"][0]
    deviation = np.sqrt(learned.var() + 1e-5)
    normed = (learned - learned.mean()) / deviation
    query = _linear(params["query"], params["query_norm"])
    key = _linear(params["key"], params["token_norm"])
    value = _linear(params["value"], params["token_norm"])
    assert value.bias is not None
    out = _linear(params["out"])
    width, size = len(learned), len(learned) // heads
    projected = (_apply(query, normed) * size**-0.5).reshape(heads, size)
    keys = key.kernel.reshape(width, heads, size)
    parts = np.split(value.kernel, heads, axis=1)
    return LearnedQuery(
        query=np.einsum("he,dhe->hd", projected, keys),
        values=tuple(map(Layer, parts)),
        out=_with_bias(_with_bias(out, value.bias @ out.kernel), learned),
    )


def _thresholds(stored: np.ndarray) -> np.ndarray:
    """Thresholds of an ordinal head; see `sft_jax.ops.ordinal.ordered_thresholds`."""
    return np.cumsum(np.concatenate([stored[:1], np.logaddexp(0, stored[1:])]))


def _gaps(stored: np.ndarray) -> np.ndarray:
    """Factors `1 - exp(-gap)` of the classes between two thresholds; 1 at both ends."""
    return np.pad(1 / (1 + np.exp(-stored[1:])), 1, constant_values=1)
