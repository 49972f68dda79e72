"""The operations that pooling takes, by hand and beside those of the attention before it."""

import functools
import math

import jax
import numpy as np
import pytest
import tiny_sft

from sft_jax import Tokens
from sft_jax.modules.reducer import Reducer
from sft_jax.ops.attention.plain import apply_weights, attention_weights
from sft_jax.profile.flops import count

BATCH, N = 24, 1200
HEADS = {40: 5, 256: 8}  # By width.
SORT = math.ceil(math.log2(N))  # Comparisons per token.
ITERATIONS = 5

# The terms of an example's count that grow fastest with n tokens of width d, and k kept.
LEADING = {
    # Whether each value is of a member, and the maximum or sum.
    "max": lambda n, d, k: 2 * n * d,
    "avg": lambda n, d, k: 2 * n * d,
    # Whether each is of a member, times its weight, and the sum.
    "attn": lambda n, d, k: 3 * n * d,
    "attn_topk": lambda n, d, k: SORT * n,
    "random": lambda n, d, k: SORT * n,
    "attn_random": lambda n, d, k: SORT * n,
    "strided_random": lambda n, d, k: SORT * n,
    "channel_topk": lambda n, d, k: (SORT + 1) * n * d,
    # Padding set to 0; difference, absolute value and sum for each two tokens; then in each
    # iteration whether they are of one cluster, the weighted distance and the sum of those
    # that are, and five operations for each token and centre.
    "attn_wkmedoids": lambda n, d, k: n * d + 3 * n**2 * d + ITERATIONS * (4 * n**2 + 5 * n * k),
    # Similarities of one half with the other, and the sums of what is merged; half as many
    # tokens, and so a quarter of it, in each further round. Then two for each similarity.
    "tome": lambda n, d, k: 4 / 3 * n**2 * (d + 1.5),
    # The hidden layer, the k maps, and the k sums.
    "token_learner": lambda n, d, k: 2 * n * d**2 + 4 * n * k * d,
    # Keys and values, then what the k queries take of each.
    "perceiver": lambda n, d, k: 4 * n * d**2 + 4 * n * k * d,
    # The order, then as attn.
    "evit": lambda n, d, k: SORT * n + 3 * n * d,
}

# How much more the count may be: sorting and counting positions, norms and softmax, and what
# is done with the tokens kept.
MORE = {"attn_wkmedoids": 1.01, "tome": 1.05, "token_learner": 1.25, "perceiver": 1.25}

# The largest share of the attention's operations at k=4. Distances between all tokens
# cost nearly what the attention does, whatever n, and similarities of half of them a third.
SHARE = dict.fromkeys(LEADING, 0.01) | {
    "attn_wkmedoids": 0.75, "tome": 0.35, "token_learner": 0.12, "perceiver": 0.22
}  # fmt: skip


def array(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct((BATCH, N, *shape), dtype)


@functools.cache
def pooling(pool, width, k):
    """The count for a batch."""
    reducer = Reducer(pool, k, HEADS[width])
    args = Tokens(array(width), array(dtype=bool)), array()
    variables = jax.eval_shape(lambda *args: reducer.init(jax.random.key(0), *args), *args)
    return count(reducer.apply, variables, *args).flops


@functools.cache
def attention(width):
    """The count for a batch: logits, softmax and weighted sum, without the projections."""

    def attend(query, key, value, mask):
        return apply_weights(attention_weights(query, key, mask), value)

    each = array(HEADS[width], width // HEADS[width])
    return count(attend, each, each, each, array(dtype=bool)).flops


def test_the_attention_counts_as_by_hand():
    for width, heads in HEADS.items():
        products, softmax_and_masks = 4 * N**2 * width, 7 * N**2 * heads
        expected = BATCH * (products + softmax_and_masks)
        assert expected < attention(width) < 1.001 * expected


# What depends on k and on the width, at both of each; the others at one.
SIZES = [
    *((pool, 4, 40) for pool in LEADING),
    *((pool, 100, 256) for pool in ("attn_wkmedoids", "tome", "token_learner", "perceiver")),
    ("channel_topk", 4, 256),
]


@pytest.mark.parametrize(("pool", "k", "width"), SIZES)
def test_a_pool_counts_as_by_hand(pool, k, width):
    least = LEADING[pool](N, width, k)
    most = MORE.get(pool, 1) * least + (SORT + 24) * N + 4 * k * width
    assert least <= pooling(pool, width, k) / BATCH <= most


@pytest.mark.parametrize("pool", [pool for pool in tiny_sft.SINGLE_POOLS if pool != "none"])
def test_pooling_costs_less_than_the_attention_before_it(pool):
    assert 0 < pooling(pool, 40, 4) <= SHARE[pool] * attention(40)
