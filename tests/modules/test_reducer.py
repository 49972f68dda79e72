"""Invariants of every pool: its number of tokens, masks, gradients and memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sft
from sparing import slow_but

from sft_jax import Tokens
from sft_jax.modules.reducer import Reducer
from sft_jax.ops.pool.windows import adaptive_windows
from sft_jax.profile.flops import count

K = 3
MASK = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 0, 1, 1, 0, 1, 0],
        [0, 0, 0, 1, 0, 1, 0],  # Fewer than k.
        [0, 0, 0, 0, 0, 0, 0],  # Absent.
    ],
    bool,
)
RANDOM = ("random", "attn_random", "strided_random")
SELECTING = ("attn_topk", "attn_wkmedoids", *RANDOM)

every_pool = pytest.mark.parametrize("pool", tiny_sft.SINGLE_POOLS)
every_shortening_pool = pytest.mark.parametrize(
    "pool", [pool for pool in tiny_sft.SINGLE_POOLS if pool != "none"]
)
every_keeping_pool = pytest.mark.parametrize(
    "pool",
    [pool for pool in tiny_sft.SINGLE_POOLS if pool not in ("none", *tiny_sft.LEARNED_POOLS)],
)
every_selecting_pool = pytest.mark.parametrize("pool", SELECTING)
# Training differs for the pools that draw alone.
every_way_to_shorten = pytest.mark.parametrize(
    ("pool", "train"),
    [
        *((pool, False) for pool in tiny_sft.SINGLE_POOLS if pool != "none"),
        *((pool, True) for pool in RANDOM),
    ],
)
every_random_pool = pytest.mark.parametrize("pool", RANDOM)


@functools.cache
def compiled(pool, k=K, train=False):
    """A function of tokens, saliency and a key: the pooled tokens and the sown index."""

    def run(tokens, saliency, key):
        rngs = {"pool": key} if train else {}
        reducer = Reducer(pool, k)
        variables = tiny_sft.normal_variables(reducer, tokens, saliency)
        kept, state = reducer.apply(
            variables, tokens, saliency, train=train, rngs=rngs, mutable=["intermediates"]
        )
        return kept, state.get("intermediates", {}).get("index", [None])[0]

    return jax.jit(run)


def _pool(pool, tokens, saliency, *, k=K, train=False, seed=0):
    # This kind of key is quick to compile.
    return compiled(pool, k, train)(tokens, saliency, jax.random.key(seed, impl="rbg"))


def _filled(pool, real, k=K):
    """Mask of the `k` slots, from the number of real tokens in each example."""
    filled = np.where(real > 0, k, 0) if pool in tiny_sft.LEARNED_POOLS else real
    return (np.arange(k) < np.asarray(filled)[:, None]).tolist()


def _case():
    """Tokens with something impossible at every padded position, and saliencies."""
    random = np.random.default_rng(0)
    values = random.normal(size=(*MASK.shape, 3)).astype(np.float32)
    values = np.where(MASK[..., None], values, np.float32([np.nan, np.inf, -1e30]))
    saliency = np.where(MASK, random.random(MASK.shape), 0).astype(np.float32)
    return Tokens(jnp.asarray(values), jnp.asarray(MASK)), jnp.asarray(saliency)


@every_way_to_shorten
def test_exactly_k_slots_filled_from_real_tokens(pool, train):
    tokens, saliency = _case()
    kept, index = _pool(pool, tokens, saliency, train=train)
    assert kept.mask.tolist() == _filled(pool, MASK.sum(axis=1))
    # The padding is all NaN, infinite or huge.
    assert (abs(kept.values) < 10).all()
    assert (kept.values[~np.asarray(kept.mask)] == 0).all()
    assert (index is not None) == (pool in SELECTING)
    if index is not None:
        for example, filled in enumerate(np.asarray(kept.mask)):
            chosen = np.asarray(index[example])[filled]
            assert len(set(chosen.tolist())) == len(chosen)
            assert MASK[example, chosen].all()
            expected = tokens.values[example, chosen]
            np.testing.assert_array_equal(kept.values[example][filled], expected)


@pytest.mark.parametrize("k", slow_but([7, 9], 9))
@every_keeping_pool
def test_k_of_the_length_or_more_keeps_every_token(pool, k):
    tokens, saliency = _case()
    kept, _ = _pool(pool, tokens, saliency, k=k)
    for example, mask in enumerate(MASK):
        filled = np.asarray(kept.mask[example])
        assert filled.tolist() == [slot < mask.sum() for slot in range(k)]
        values, expected = kept.values[example][filled], tokens.values[example][mask]
        # As sets: of tokens or, where features are sorted apart, of the values of each.
        by_feature = pool == "channel_topk"
        order = (lambda a: np.sort(a, axis=0)) if by_feature else (lambda a: a[np.argsort(a[:, 0])])
        np.testing.assert_allclose(order(values), order(expected), rtol=1e-6)


@every_shortening_pool
def test_a_sequence_shorter_than_k_is_filled_up(pool):
    length = 2
    tokens = Tokens(jnp.ones((2, length, 2)), jnp.asarray([[True] * length, [False] * length]))
    kept, _ = _pool(pool, tokens, jnp.full((2, length), 0.5))
    assert kept.mask.tolist() == _filled(pool, np.array([length, 0]))
    if pool not in tiny_sft.LEARNED_POOLS:
        np.testing.assert_array_equal(kept.values, np.broadcast_to(kept.mask[..., None], (2, K, 2)))


@every_way_to_shorten
def test_gradients_are_finite_and_pass_padding_and_dropped_tokens_by(pool, train):
    tokens, saliency = _case()

    def total(values, saliency):
        kept, index = _pool(pool, Tokens(values, tokens.mask), saliency, train=train)
        return (kept.values**2).sum(), index

    gradient = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    (value_gradient, saliency_gradient), index = gradient(tokens.values, saliency)
    assert np.isfinite(value_gradient).all()
    assert np.isfinite(saliency_gradient).all()
    assert (np.asarray(value_gradient)[~MASK] == 0).all()
    assert (np.asarray(saliency_gradient)[~MASK] == 0).all()
    assert (value_gradient[:3] != 0).any(axis=(1, 2)).all()
    # The first example alone has more than k tokens: only there can a saliency matter.
    assert (saliency_gradient[0] != 0).any() == (pool in ("attn", "evit"))
    if pool in SELECTING:
        kept = np.zeros(MASK.shape, bool)
        np.put_along_axis(kept, np.asarray(index), True, axis=1)
        np.testing.assert_array_equal((value_gradient != 0).all(axis=2)[:2], (kept & MASK)[:2])
        np.testing.assert_array_equal((value_gradient != 0).any(axis=2)[:2], (kept & MASK)[:2])


@every_pool
def test_pools_work_under_vmap(pool):
    tokens, saliency = _case()
    expected, _ = _pool(pool, tokens, saliency)
    one_by_one = jax.tree.map(lambda a: a[:, None], (tokens, saliency))
    mapped = jax.jit(jax.vmap(lambda *args: _pool(pool, *args)[0]))(*one_by_one)
    np.testing.assert_array_equal(mapped.mask[:, 0], expected.mask)
    real = np.asarray(expected.mask)
    np.testing.assert_allclose(mapped.values[:, 0][real], expected.values[real], rtol=1e-6)


@every_random_pool
def test_training_draws_by_key_and_for_each_example(pool):
    batch, length = 16, 40
    random = np.random.default_rng(0)
    values = jnp.broadcast_to(
        random.normal(size=(length, 2)).astype(np.float32), (batch, length, 2)
    )
    tokens = Tokens(values, jnp.ones((batch, length), bool))
    saliency = jnp.full((batch, length), 1 / length)
    first, same, other = (
        np.asarray(_pool(pool, tokens, saliency, train=True, seed=seed)[1]) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).any(axis=1).mean() > 0.9
    assert len(np.unique(first, axis=0)) > batch / 2


@every_random_pool
def test_evaluation_uses_one_draw_whatever_the_batch_and_the_padding(pool):
    batch, length = 6, 40
    random = np.random.default_rng(0)
    values = random.normal(size=(length, 2)).astype(np.float32)
    saliency = random.random(length).astype(np.float32)
    tokens = Tokens(jnp.tile(values, (batch, 1, 1)), jnp.ones((batch, length), bool))
    _, index = _pool(pool, tokens, jnp.tile(saliency, (batch, 1)))
    assert (np.asarray(index) == np.asarray(index[0])).all()
    # Alone, and padded to another length.
    padded = Tokens(jnp.pad(values, ((0, 9), (0, 0)))[None], jnp.arange(length + 9)[None] < length)
    _, alone = _pool(pool, padded, jnp.pad(saliency, (0, 9))[None])
    np.testing.assert_array_equal(alone[0], index[0])


@every_random_pool
def test_evaluation_draws_at_random_if_asked(pool):
    tokens, saliency = _case()
    reducer, key = Reducer(pool, K), jax.random.key(0, impl="rbg")
    asked, training = (
        reducer.apply({}, tokens, saliency, train=train, rngs={"pool": key})
        for train in (False, True)
    )
    np.testing.assert_array_equal(asked.values, training.values)


@every_random_pool
def test_evaluation_draws_the_same_in_every_precision(pool):
    tokens, saliency = _case()
    _, expected = _pool(pool, tokens, saliency)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: a.astype(np.float64), (tokens.values, saliency))
        kept, index = _pool(pool, Tokens(double[0], tokens.mask), double[1])
    filled = np.asarray(kept.mask)
    np.testing.assert_array_equal(np.asarray(index)[filled], np.asarray(expected)[filled])


def test_saliency_matters_to_attn_random_alone():
    batch, length, salient = 500, 40, 17
    tokens = Tokens(jnp.zeros((batch, length, 1)), jnp.ones((batch, length), bool))
    saliency = jnp.full((batch, length), 1e-3).at[:, salient].set(0.1)
    share = {
        pool: (np.asarray(_pool(pool, tokens, saliency, train=True)[1]) == salient).any(1).mean()
        for pool in ("random", "attn_random")
    }
    assert share["random"] < 0.15  # 3 / 40.
    assert share["attn_random"] > 0.9


@pytest.mark.parametrize("train", [False, True])
def test_strided_random_stays_within_its_window(train):
    tokens, saliency = _case()
    kept, index = _pool("strided_random", tokens, saliency, train=train)
    windows = adaptive_windows(tokens.mask, K)
    inside = ((windows.index == index[..., None]) & windows.member).any(axis=2)
    np.testing.assert_array_equal(inside | ~kept.mask, True)


BATCH, LENGTH = 24, 1200
WEIGHTS = BATCH * 5 * (LENGTH + 1) ** 2 * 4  # Bytes of the attention weights of five heads.


@every_shortening_pool
def test_no_intermediate_is_above_four_times_the_attention_weights(pool):
    k, width, heads = 100, 256, 8  # Nothing is larger for fewer or narrower tokens.
    reducer = Reducer(pool, k, heads)

    def pooled(variables, values, saliency, mask, key):
        tokens = Tokens(values, mask)
        kept = reducer.apply(variables, tokens, saliency, train=True, rngs={"pool": key})
        return (kept.values**2).sum()

    values = jax.ShapeDtypeStruct((BATCH, LENGTH, width), np.float32)
    saliency = jax.ShapeDtypeStruct((BATCH, LENGTH), np.float32)
    mask = jax.ShapeDtypeStruct((BATCH, LENGTH), bool)
    key = jax.eval_shape(jax.random.key, 0)
    variables = jax.eval_shape(reducer.init, key, Tokens(values, mask), saliency)
    gradient = jax.value_and_grad(pooled, argnums=(0, 1, 2))
    largest = count(gradient, variables, values, saliency, mask, key).largest_bytes
    assert 0 < largest <= 4 * WEIGHTS


def test_the_measure_finds_differences_of_all_pairs():
    def in_a_loop(values):
        def body(_, total):
            return total + abs(values[:, :, None] - values[:, None]).sum(axis=-1)

        return jax.lax.fori_loop(0, 2, body, jnp.zeros((BATCH, LENGTH, LENGTH)))

    values = jax.ShapeDtypeStruct((BATCH, LENGTH, 40), np.float32)
    assert count(in_a_loop, values).largest_bytes > 4 * WEIGHTS


@every_pool
def test_pools_that_look_at_the_saliency_are_refused_without(pool):
    tokens, _ = _case()
    reducer = Reducer(pool, K)
    init = functools.partial(jax.eval_shape, reducer.init, jax.random.key(0), tokens)
    if pool in tiny_sft.SALIENT_POOLS:
        with pytest.raises(ValueError, match=f"pool='{pool}' needs the saliency of the tokens"):
            init()
    else:
        init()
