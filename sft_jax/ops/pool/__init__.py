"""Pools: ways to reduce the tokens of an example to `k`.

| pool | the `k` tokens |
| --- | --- |
| `max` | the maximum of each feature over each of `k` windows |
| `avg` | the mean over each of `k` windows |
| `attn` | the mean over each of `k` windows, weighted by saliency |
| `attn_topk` | the `k` tokens of largest saliency, unchanged |
| `attn_wkmedoids` | the centres of `k` clusters of tokens, weighted by saliency |
| `channel_topk` | the `k` largest values of each feature, in descending order |
| `random` | `k` tokens drawn at random |
| `attn_random` | `k` tokens drawn at random, with probability by saliency |
| `strided_random` | one token drawn at random from each of `k` windows |
| `tome` | `k` means of similar tokens, merged step by step, with their sizes |
| `token_learner` | `k` means of all tokens, weighted by an MLP |
| `perceiver` | `k` learned queries after attending to the tokens |
| `evit` | the `k - 1` tokens of largest saliency, and the weighted mean of the others |
| `joint_topk` | the tokens of largest score among all modalities, `k` for each on average |
| `none` | all tokens |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax.numpy as jnp

from sft_jax import plugins
from sft_jax.ops.pool import cluster, joint, merge, reduce, select
from sft_jax.ops.pool.windows import Windows
from sft_jax.structs import Tokens

Need = Literal["saliency", "windows", "noise", "iterations"]


@dataclasses.dataclass(frozen=True)
class Pool:
    """One way to reduce tokens, and the arguments that it needs in addition to the tokens.

    Attributes:
      function: Function called as `function(tokens, k, **needs)`. It returns `[b, k, d]` tokens,
        or a pair of the tokens and their positions `[b, k]` in the sequence. None for a pool with
        parameters.
      needs: Names of the keyword arguments of `function`. `saliency` is `[b, n]`, the saliency of
        each token, at least 0 (`sft_jax.structs.Saliency`); `windows` divides the tokens among `k`
        slots (`sft_jax.ops.pool.windows.Windows`); `noise` is `[b, n]` Gumbel noise; `iterations`
        is the number of steps of an iterative pool.
      module: For a pool with parameters, its `flax.linen.Module` class or the import path of one.
        It is created with those of the attributes `k`, `num_heads` and `dtype` that it has, and
        called as `module(tokens)`.
      uses_k: Whether the number of tokens depends on `k`.
      nested: Whether the tokens for `k` are the first `k` of those for any larger number. A
        module takes the first slots then where its parameters have more
        (`sft_jax.modules.learned_pools.slots_param`).
      joint: Whether the tokens of all modalities are reduced together. `function` then gets
        sequences over the modalities, of tokens and of saliency, and `cls`, their `[b, m, d]` CLS
        tokens. `k` is the sum over all modalities of the model, and positions are those in the
        concatenation. Saliency is all that it may need.

    Raises:
      ValueError: If a joint pool has a module, or another need.
    """

    function: Callable[..., Any] | None = None
    needs: tuple[Need, ...] = ()
    module: Any = None
    uses_k: bool = True
    nested: bool = False
    joint: bool = False

    def __post_init__(self) -> None:
        if self.joint and (self.function is None or set(self.needs) - {"saliency"}):
            raise ValueError(
                f"Pool(joint=True) with function={self.function} and needs={self.needs}: it must"
                " have a function, and may need the saliency alone"
            )


def _window_max(tokens: Tokens, k: int, windows: Windows) -> Tokens:
    return reduce.window_max(tokens, windows)


def _window_mean(tokens: Tokens, k: int, windows: Windows) -> Tokens:
    return reduce.window_mean(tokens, windows, divisor=windows.kernel)


def _weighted_mean(tokens: Tokens, k: int, saliency: Any, windows: Windows) -> Tokens:
    epsilon = None if windows.kernel is None else 1e-5 * windows.kernel
    return reduce.window_weighted_mean(tokens, saliency, windows, epsilon)


def _top_k(tokens: Tokens, k: int, saliency: Any) -> Any:
    return select.select_top_k(tokens, saliency, k)


def _k_medoids(tokens: Tokens, k: int, saliency: Any, iterations: int) -> Any:
    return cluster.weighted_k_medoids(tokens, saliency, k, iterations)


def _channel_top_k(tokens: Tokens, k: int) -> Tokens:
    return select.channel_top_k(tokens, k)


def _random(tokens: Tokens, k: int, noise: Any) -> Any:
    return select.draw_tokens(tokens, jnp.ones_like(noise), noise, k)


def _salient_random(tokens: Tokens, k: int, saliency: Any, noise: Any) -> Any:
    return select.draw_tokens(tokens, saliency, noise, k)


def _random_of_windows(tokens: Tokens, k: int, windows: Windows, noise: Any) -> Any:
    return select.draw_from_windows(tokens, windows, noise)


def _top_k_and_rest(tokens: Tokens, k: int, saliency: Any) -> Tokens:
    return select.top_k_and_rest(tokens, saliency, k)


def _all(tokens: Tokens, k: int) -> Tokens:
    return tokens


POOLS: Mapping[str, Pool] = {
    "max": Pool(_window_max, ("windows",)),
    "avg": Pool(_window_mean, ("windows",)),
    "attn": Pool(_weighted_mean, ("saliency", "windows")),
    "attn_topk": Pool(_top_k, ("saliency",), nested=True),
    "attn_wkmedoids": Pool(_k_medoids, ("saliency", "iterations")),
    "channel_topk": Pool(_channel_top_k, nested=True),
    "random": Pool(_random, ("noise",), nested=True),
    "attn_random": Pool(_salient_random, ("saliency", "noise"), nested=True),
    "strided_random": Pool(_random_of_windows, ("windows", "noise")),
    "tome": Pool(merge.merge_tokens),
    "token_learner": Pool(module="sft_jax.modules.learned_pools:TokenLearner", nested=True),
    "perceiver": Pool(module="sft_jax.modules.learned_pools:PerceiverPool", nested=True),
    "evit": Pool(_top_k_and_rest, ("saliency",)),
    "joint_topk": Pool(joint.joint_top_k, ("saliency",), nested=True, joint=True),
    "none": Pool(_all, uses_k=False),
}
"""Built-in pools by their name in a config."""


def find_pool(pool: str | Pool, field: str = "pool") -> Pool:
    """Finds a pool by name or import path.

    Args:
      pool: One of `POOLS`, an import path such as `my_package.my_module:my_pool`, or a `Pool`.
      field: Name of the field that holds `pool`, for the error message.

    Raises:
      ValueError: If the pool is unknown, or the import path leads to something else.
    """
    if isinstance(pool, Pool):
        return pool
    if pool in POOLS:
        return POOLS[pool]
    if not plugins.is_import_path(pool):
        raise ValueError(
            f"{field}={pool!r} is not one of {', '.join(POOLS)}, nor an import path such as"
            " 'my_package.my_module:my_pool'"
        )
    loaded = plugins.load(pool, field)
    if not isinstance(loaded, Pool):
        raise ValueError(
            f"{field}={pool!r} must be a sft_jax.ops.pool.Pool, got {type(loaded).__name__}"
        )
    return loaded


def attention_problem(saliency: str, pool: str | Pool) -> list[str]:
    """Lists one problem if a pool needs the saliency of an attention that is left out, else none.

    Args:
      saliency: Saliency that was chosen.
      pool: Name, import path or `Pool`.

    Raises:
      ValueError: See `find_pool`.
    """
    if saliency == "learned" or "saliency" not in find_pool(pool).needs:
        return []
    return [
        f"pool={pool!r} with saliency={saliency!r} needs the attention before pooling, which is"
        " left out; allowed are saliency='learned', or a pool without saliency such as 'max'"
    ]


def saliency_problem(saliency: str, pool: str | Pool) -> list[str]:
    """Lists one problem if a pool would ignore the choice of the saliency, else none.

    Args:
      saliency: Saliency that was chosen.
      pool: Name, import path or `Pool`.

    Raises:
      ValueError: See `find_pool`.
    """
    if saliency == "received" or "saliency" in find_pool(pool).needs:
        return []
    allowed = ", ".join(name for name, own in POOLS.items() if "saliency" in own.needs)
    return [f"saliency={saliency!r} has no effect on pool={pool!r}; it has on {allowed}"]
