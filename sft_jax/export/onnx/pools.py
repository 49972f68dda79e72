"""Pools of `sft_jax.ops.pool` as operators of an ONNX graph, for a `k` that the graph is given.

A sequence has its full length `n` here, so all shapes but the batch and `k` are known. Where the
library gathers the members of windows, a graph has a mask of `k` windows over `n` tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sft_jax.export.onnx.graph import END, Graph
from sft_jax.export.onnx.layers import GraphTokens, Layers, Params
from sft_jax.modules.reducer import Reducer
from sft_jax.ops.noise import fixed_gumbel

_TINY = float(np.finfo(np.float32).tiny)


class Choice(NamedTuple):
    """Tokens to choose from, and what pools need beside them.

    Attributes:
      graph: Graph.
      tokens: Tokens without CLS.
      saliency: `[b, n]` saliency; None for a pool that needs none.
      length: Number `n` of tokens.
      k: Value of one integer, at least 1.
      weighted: Whether selected tokens count as their saliency in later attention.
    """

    graph: Graph
    tokens: GraphTokens
    saliency: str | None
    length: int
    k: str
    weighted: bool = False

    @property
    def slots(self) -> str:
        """Numbers of the slots, `[k]`."""
        graph = self.graph
        zero, one = (graph.constant(number, np.int64) for number in (0, 1))
        return graph.op("Range", zero, graph.squeeze(self.k, 0), one)

    def weight(self) -> str:
        """Saliency of the tokens, for pools that need it."""
        assert self.saliency is not None
        return self.saliency


def pool(choice: Choice, name: str) -> GraphTokens:
    """Adds a pool without parameters; see `sft_jax.ops.pool.POOLS`."""
    return _POOLS[name](choice)


def order(graph: Graph, score: str, length: int, *, largest: bool = True) -> str:
    """Positions in the order of a score; among equals the earlier come first.

    Args:
      graph: Graph.
      score: `[b, length]` numbers.
      length: Number of positions.
      largest: Whether the largest come first.
    """
    count = graph.integers(length)
    ways = {"axis": -1, "largest": int(largest), "sorted": 1}
    return graph.several("TopK", score, count, outputs=2, **ways)[1]


def take(graph: Graph, values: str, index: str) -> str:
    """Rows of each example at `[b, k]` positions of its first axis."""
    return graph.op("GatherND", values, graph.unsqueeze(index, 2), batch_dims=1)


def _real_first(choice: Choice) -> str:
    return order(choice.graph, choice.graph.to_float(choice.tokens.mask), choice.length)


def _filled(choice: Choice, k: str | None = None) -> str:
    """`sft_jax.ops.pool.select.filled_slots`, `[b, k]`."""
    graph = choice.graph
    slots = choice.slots if k is None else graph.slice(choice.slots, 0, k, 0)
    return graph.op("Less", graph.unsqueeze(slots, 0), graph.count(choice.tokens.mask, 1))


def _only(graph: Graph, values: str, filled: str) -> GraphTokens:
    return GraphTokens(graph.where(graph.unsqueeze(filled, 2), values), filled)


def _taken(choice: Choice, index: str, filled: str) -> GraphTokens:
    graph, tokens = choice.graph, choice.tokens
    taken = _only(graph, take(graph, tokens.values, index), filled)
    if not choice.weighted:
        return taken
    real = graph.to_float(graph.count(tokens.mask, 1))
    sizes = take(graph, graph.op("Mul", choice.weight(), real), index)
    return taken._replace(sizes=graph.where(filled, graph.maximum(sizes, _TINY), 1.0))


# Windows.


def _windows(choice: Choice) -> str:
    """Members of `sft_jax.ops.pool.windows.adaptive_windows`, `[b, k, n]`."""
    graph, mask = choice.graph, choice.tokens.mask
    one = graph.integers(1)
    real = graph.count(mask, 1)
    used = graph.op("Min", graph.op("Max", real, one), choice.k)
    end = graph.op("Concat", choice.slots, choice.k, axis=0)
    edge = graph.op("Min", graph.unsqueeze(end, 0), used)
    edge = graph.op("Div", graph.op("Mul", edge, real), used)
    rank = graph.op("CumSum", graph.to_integer(mask), graph.constant(1, np.int64))
    rank = graph.unsqueeze(graph.op("Sub", rank, one), 1)
    begin = graph.unsqueeze(graph.slice(edge, 0, -1, 1), 2)
    end = graph.unsqueeze(graph.slice(edge, 1, END, 1), 2)
    within = graph.op("And", graph.op("GreaterOrEqual", rank, begin), graph.op("Less", rank, end))
    return graph.op("And", within, graph.unsqueeze(mask, 1))


def _window_max(choice: Choice) -> GraphTokens:
    graph, member = choice.graph, _windows(choice)
    values = graph.unsqueeze(choice.tokens.values, 1)
    kept = graph.where(graph.unsqueeze(member, 3), values, -np.inf)
    most = graph.op("ReduceMax", kept, axes=[2], keepdims=0)
    return _only(graph, most, graph.any(member, 2))


def _window_mean(choice: Choice) -> GraphTokens:
    graph, member = choice.graph, _windows(choice)
    total = graph.op("MatMul", graph.to_float(member), choice.tokens.values)
    count = graph.maximum(graph.sum(graph.to_float(member), 2, keep=True), 1.0)
    return _only(graph, graph.op("Div", total, count), graph.any(member, 2))


def _weighted_mean(choice: Choice) -> GraphTokens:
    return _weighted(choice, _windows(choice))


def _weighted(choice: Choice, member: str) -> GraphTokens:
    """`sft_jax.ops.pool.reduce.window_weighted_mean` for a mask of members `[b, k, n]`."""
    graph = choice.graph
    weights = graph.where(member, graph.unsqueeze(choice.weight(), 1))
    largest = graph.op("ReduceMax", weights, axes=[2], keepdims=1)
    positive = graph.op("Greater", largest, graph.constant(0.0))
    weights = graph.either(positive, weights, graph.to_float(member))
    weights = graph.op("Div", weights, graph.where(positive, largest, 1.0))
    total = graph.op("MatMul", weights, choice.tokens.values)
    norm = graph.sum(weights, 2, keep=True)
    norm = graph.where(graph.op("Greater", norm, graph.constant(0.0)), norm, 1.0)
    return _only(graph, graph.op("Div", total, norm), graph.any(member, 2))


# Selection.


def _top(choice: Choice, score: str) -> GraphTokens:
    """`sft_jax.ops.pool.select.select_top_k`."""
    graph = choice.graph
    score = graph.where(choice.tokens.mask, score, -np.inf)
    index = graph.slice(order(graph, score, choice.length), 0, choice.k, 1)
    return _taken(choice, index, _filled(choice))


def _top_k(choice: Choice) -> GraphTokens:
    return _top(choice, choice.weight())


def _noise(choice: Choice) -> np.ndarray:
    """Noise of evaluation, `[1, n]`."""
    return np.asarray(fixed_gumbel(choice.length))


def _random(choice: Choice) -> GraphTokens:
    return _top(choice, choice.graph.constant(_noise(choice)))


def _salient_random(choice: Choice) -> GraphTokens:
    graph = choice.graph
    logarithm = graph.op("Log", graph.maximum(choice.weight(), _TINY))
    return _top(choice, graph.op("Add", logarithm, graph.constant(_noise(choice))))


def _random_of_windows(choice: Choice) -> GraphTokens:
    graph, member = choice.graph, _windows(choice)
    drawn = graph.where(member, graph.constant(_noise(choice)[:, None]), -np.inf)
    index = graph.op("ArgMax", drawn, axis=2, keepdims=0)
    return _taken(choice, index, graph.any(member, 2))


def _top_k_and_rest(choice: Choice) -> GraphTokens:
    graph, mask = choice.graph, choice.tokens.mask
    score = graph.where(mask, choice.weight(), -np.inf)
    by_score = order(graph, score, choice.length)
    before_last = graph.op("Sub", choice.k, graph.integers(1))
    index = graph.slice(by_score, 0, before_last, 1)
    selected = _taken(choice, index, _filled(choice, before_last))
    # The order of the order is the rank of each token.
    rank = order(graph, by_score, choice.length, largest=False)
    rest = graph.op("And", mask, graph.op("GreaterOrEqual", rank, before_last))
    fused = _weighted(choice, graph.unsqueeze(rest, 1))
    values = graph.op("Concat", selected.values, fused.values, axis=1)
    return GraphTokens(values, graph.op("Concat", selected.mask, fused.mask, axis=1))


def _channel_top_k(choice: Choice) -> GraphTokens:
    graph, tokens = choice.graph, choice.tokens
    kept = graph.where(graph.unsqueeze(tokens.mask, 2), tokens.values, -np.inf)
    by_feature = graph.op("Transpose", kept, perm=[0, 2, 1])
    ways = {"axis": -1, "largest": 1, "sorted": 1}
    largest = graph.several("TopK", by_feature, choice.k, outputs=2, **ways)[0]
    return _only(graph, graph.op("Transpose", largest, perm=[0, 2, 1]), _filled(choice))


# Clusters.


def _k_medoids(choice: Choice) -> GraphTokens:
    graph, mask = choice.graph, choice.tokens.mask
    values = graph.where(graph.unsqueeze(mask, 2), choice.tokens.values)
    apart = graph.op("Sub", graph.unsqueeze(values, 2), graph.unsqueeze(values, 1))
    distance = graph.sum(graph.op("Abs", apart), 3)
    weight = graph.where(mask, choice.weight())
    weighted = graph.op("Mul", distance, graph.unsqueeze(weight, 1))
    score = graph.where(mask, choice.weight(), -np.inf)
    centres = graph.slice(order(graph, score, choice.length), 0, choice.k, 1)
    numbers = graph.unsqueeze(choice.slots, 0, 1)
    for _ in range(Reducer.iterations):
        to_centres = take(graph, distance, centres)
        nearest = graph.op("ArgMin", to_centres, axis=1, keepdims=0)
        own = graph.unsqueeze(nearest, 2)
        together = graph.op("Equal", own, graph.unsqueeze(nearest, 1))
        cost = graph.sum(graph.where(together, weighted), 2)
        member = graph.op("And", graph.op("Equal", own, numbers), graph.unsqueeze(mask, 2))
        costs = graph.where(member, graph.unsqueeze(cost, 2), np.inf)
        moved = graph.op("ArgMin", costs, axis=1, keepdims=0)
        centres = graph.either(graph.any(member, 1), moved, centres)
    in_order = graph.slice(_real_first(choice), 0, choice.k, 1)
    many = graph.op("Greater", graph.count(mask, 1), choice.k)
    return _taken(choice, graph.either(many, centres, in_order), _filled(choice))


# Merging.


def _merge_tokens(choice: Choice) -> GraphTokens:
    """`sft_jax.ops.pool.merge.merge_tokens`, with enough rounds for `k = 1`.

    A round without anything to merge changes nothing, so that a graph need not know their number.
    """
    graph, mask = choice.graph, choice.tokens.mask
    even = choice.length + choice.length % 2
    sizes = graph.to_float(mask)
    totals = graph.where(graph.unsqueeze(mask, 2), choice.tokens.values)
    if even > choice.length:
        totals = graph.op("Pad", totals, graph.integers(0, 0, 0, 0, 1, 0))
        sizes = graph.op("Pad", sizes, graph.integers(0, 0, 0, 1))
    totals, sizes = _to_front(graph, totals, sizes, even)
    for _ in range(math.ceil(math.log2(choice.length))):
        totals, sizes = _merge_round(graph, totals, sizes, even, choice.k)
        totals, sizes = _to_front(graph, totals, sizes, even)
    totals, sizes = (graph.slice(part, 0, choice.k, 1) for part in (totals, sizes))
    filled = graph.op("Greater", sizes, graph.constant(0.0))
    divisor = graph.unsqueeze(graph.where(filled, sizes, 1.0), 2)
    return GraphTokens(graph.op("Div", totals, divisor), filled, sizes)


def _merge_round(graph: Graph, totals: str, sizes: str, length: int, k: str) -> tuple[str, str]:
    half = length // 2
    unit_a, unit_b = _in_turn(graph, graph.reshape(_unit(graph, totals), 0, half, 2, -1))
    totals_a, totals_b = _in_turn(graph, graph.reshape(totals, 0, half, 2, -1))
    sizes_a, sizes_b = _in_turn(graph, graph.reshape(sizes, 0, half, 2))
    zero, one = graph.constant(0.0), graph.integers(1)
    similarity = graph.op("MatMul", unit_a, graph.op("Transpose", unit_b, perm=[0, 2, 1]))
    possible = graph.op(
        "And",
        graph.unsqueeze(graph.op("Greater", sizes_a, zero), 2),
        graph.unsqueeze(graph.op("Greater", sizes_b, zero), 1),
    )
    similarity = graph.where(possible, similarity, -np.inf)
    count = graph.count(graph.op("Greater", sizes, zero), 1)
    least = graph.op("Div", graph.op("Add", count, one), graph.integers(2))
    surplus = graph.op("Sub", count, graph.op("Max", k, least))
    # With at most k tokens nothing is merged, as no rank is below 0.
    best = graph.op("ReduceMax", similarity, axes=[2], keepdims=0)
    rank = order(graph, order(graph, best, half), half, largest=False)
    merged = graph.op("Less", rank, surplus)
    partner = graph.op("ArgMax", similarity, axis=2, keepdims=1)
    joined = graph.op("Equal", partner, graph.constant(np.arange(half)[None, None], np.int64))
    into = graph.to_float(graph.op("And", joined, graph.unsqueeze(merged, 2)))
    moved = graph.op("MatMul", graph.op("Transpose", into, perm=[0, 2, 1]), totals_a)
    totals_b = graph.op("Add", totals_b, moved)
    grown = graph.sum(graph.op("Mul", into, graph.unsqueeze(sizes_a, 2)), 1)
    sizes_b = graph.op("Add", sizes_b, grown)
    stays = graph.op("Not", merged)
    totals_a = graph.where(graph.unsqueeze(stays, 2), totals_a)
    sizes_a = graph.where(stays, sizes_a)
    totals, sizes = (
        graph.op("Concat", graph.unsqueeze(a, 2), graph.unsqueeze(b, 2), axis=2)
        for a, b in ((totals_a, totals_b), (sizes_a, sizes_b))
    )
    return graph.reshape(totals, 0, length, -1), graph.reshape(sizes, 0, length)


def _in_turn(graph: Graph, pairs: str) -> list[str]:
    """The first and the second of pairs along the axis 2, which goes."""
    return [graph.squeeze(graph.slice(pairs, i, i + 1, 2), 2) for i in (0, 1)]


def _unit(graph: Graph, values: str) -> str:
    """Directions of the tokens, 0 for a token that is 0."""
    largest = graph.op("ReduceMax", graph.op("Abs", values), axes=[2], keepdims=1)
    positive = graph.op("Greater", largest, graph.constant(0.0))
    values = graph.op("Div", values, graph.where(positive, largest, 1.0))
    norm = graph.op("ReduceL2", values, axes=[2], keepdims=1)
    return graph.op("Div", values, graph.maximum(norm, 1.0))


def _to_front(graph: Graph, totals: str, sizes: str, length: int) -> tuple[str, str]:
    """Moves tokens of size above 0 to the front, in their order."""
    some = graph.to_float(graph.op("Greater", sizes, graph.constant(0.0)))
    first = order(graph, some, length)
    return take(graph, totals, first), take(graph, sizes, first)


_POOLS: Mapping[str, Callable[[Choice], GraphTokens]] = {
    "max": _window_max,
    "avg": _window_mean,
    "attn": _weighted_mean,
    "attn_topk": _top_k,
    "attn_wkmedoids": _k_medoids,
    "channel_topk": _channel_top_k,
    "random": _random,
    "attn_random": _salient_random,
    "strided_random": _random_of_windows,
    "tome": _merge_tokens,
    "evit": _top_k_and_rest,
}


# Pools with parameters.


def token_learner(layers: Layers, tokens: GraphTokens, params: Params) -> GraphTokens:
    """`sft_jax.modules.learned_pools.TokenLearner`."""
    graph = layers.graph
    values = graph.where(graph.unsqueeze(tokens.mask, 2), tokens.values)
    hidden = _gelu(graph, layers.dense(layers.norm(values, params["norm"]), params["mlp_in"]))
    logits = graph.op("Transpose", layers.dense(hidden, params["mlp_out"]), perm=[0, 2, 1])
    weights = graph.softmax(logits, graph.unsqueeze(tokens.mask, 1))
    means = graph.op("MatMul", weights, values)
    return _all_slots(graph, means, tokens, np.shape(params["mlp_out"]["bias"])[0])


def perceiver(layers: Layers, tokens: GraphTokens, params: Params) -> GraphTokens:
    """`sft_jax.modules.learned_pools.PerceiverPool`."""
    graph = layers.graph
    values = graph.where(graph.unsqueeze(tokens.mask, 2), tokens.values)
    source = tokens._replace(values=layers.norm(values, params["token_norm"]))
    queries = graph.constant(np.asarray(params["queries"])[None])
    normed = layers.norm(queries, params["query_norm"])
    attended = layers.cross_attention(normed, source, params)
    values = graph.op("Add", queries, attended)
    return _all_slots(graph, values, tokens, len(params["queries"]))


LEARNED: Mapping[str, Callable[[Layers, GraphTokens, Any], GraphTokens]] = {
    "token_learner": token_learner,
    "perceiver": perceiver,
}


def _gelu(graph: Graph, values: str) -> str:
    """`jax.nn.gelu`, in its approximation by tanh."""
    cube = graph.op("Mul", graph.op("Mul", values, values), values)
    inner = graph.op("Add", values, graph.op("Mul", cube, graph.constant(0.044715)))
    inner = graph.op("Mul", inner, graph.constant(math.sqrt(2 / math.pi)))
    rises = graph.op("Add", graph.op("Tanh", inner), graph.constant(1.0))
    return graph.op("Mul", graph.op("Mul", values, graph.constant(0.5)), rises)


def _all_slots(graph: Graph, values: str, tokens: GraphTokens, k: int) -> GraphTokens:
    present = graph.any(tokens.mask, 1, keep=True)
    filled = graph.op("And", present, graph.constant(np.ones((1, k)), np.bool_))
    return _only(graph, values, filled)
