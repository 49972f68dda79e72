"""A Sparse Fusion Transformer: numbers of tokens, dropout and types."""

import functools

import flax.errors
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sft
from sparing import slow_but

from sft_jax import ModalitySpec

# Of each kind one; `test_reducer.py` has the same of every pool alone.
some_pools = pytest.mark.parametrize(
    "pool", slow_but(tiny_sft.POOLS, "attn_topk", "random", "tome", "token_learner", "joint_topk")
)


def _fused_input(model, inputs, masks=None):
    """Shapes and types of the fused tokens."""
    apply = functools.partial(model.apply, mutable=["intermediates"])
    _, state = jax.eval_shape(apply, tiny_sft.variables(model), inputs, masks)
    return state["intermediates"]["fused_input"][0]


@pytest.mark.parametrize(("k", "length"), slow_but([(1, 1), (5, 1), (1, 7), (5, 7)], (5, 1)))
@pytest.mark.parametrize("pool", [pool for pool in tiny_sft.POOLS if pool != "none"])
def test_every_pool_keeps_exactly_k_tokens(pool, k, length):
    inputs = {name: values[:, :length] for name, values in tiny_sft.inputs().items()}
    fused = _fused_input(tiny_sft.sft(pool=pool, k=k, n_pre=0, n_post=0), inputs)
    assert fused.values.shape == (tiny_sft.BATCH, 1 + 2 * k, 8)
    assert fused.mask.shape == (tiny_sft.BATCH, 1 + 2 * k)


@some_pools
def test_padded_slots_are_marked(pool):
    model = tiny_sft.sft(pool=pool, n_pre=0, n_post=0)
    apply = jax.jit(functools.partial(model.apply, mutable=["intermediates"]))
    _, state = apply(tiny_sft.variables(model), tiny_sft.inputs(), tiny_sft.masks())
    mask = np.asarray(state["intermediates"]["fused_input"][0].mask)
    # Real tokens of sight and of sound in the three examples, as tiny_sft.masks leaves them.
    real = np.array([[6, 7], [5, 5], [2, 0]])
    kept = real if pool == "none" else np.minimum(real, tiny_sft.K)
    if pool == "joint_topk":
        kept = np.minimum(real.sum(axis=1, keepdims=True), 2 * tiny_sft.K)
    if pool in tiny_sft.LEARNED_POOLS:
        kept = tiny_sft.K * (real > 0)
    assert mask[:, 0].all()
    assert mask.sum(axis=1).tolist() == (1 + kept.sum(axis=1)).tolist()


def test_k_may_differ_by_modality():
    fused = _fused_input(tiny_sft.sft(k={"sight": 2, "sound": 5}), tiny_sft.inputs())
    assert fused.mask.shape[1] == 1 + 2 + 5


def test_pool_none_keeps_all_tokens_and_ignores_k():
    fused = _fused_input(tiny_sft.sft(pool="none", k=100), tiny_sft.inputs())
    assert fused.mask.shape[1] == 1 + 6 + 7


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_modalities(count):
    modalities = dict(list((tiny_sft.MODALITIES | {"touch": ModalitySpec(5, 1)}).items())[:count])
    model = tiny_sft.sft(modalities=modalities)
    inputs = tiny_sft.inputs(modalities=modalities)
    logits = jax.eval_shape(model.apply, tiny_sft.variables(model), inputs)
    assert (logits.shape, logits.dtype) == ((tiny_sft.BATCH, 4), np.float32)
    assert _fused_input(model, inputs).mask.shape[1] == 1 + count * tiny_sft.K


def test_dropout_is_drawn_from_its_stream_in_training_alone():
    inputs = tiny_sft.inputs()
    model = tiny_sft.sft(dropout=0.5)
    variables = tiny_sft.variables(model)
    jax.eval_shape(model.apply, variables, inputs)  # Needs no stream.
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        jax.eval_shape(functools.partial(model.apply, train=True), variables, inputs)

    @jax.jit
    def train(key):
        return model.apply(
            variables,
            inputs,
            train=True,
            rngs={"dropout": key},
            capture_intermediates=lambda module, _: isinstance(module, nn.Dropout),
            mutable=["intermediates"],
        )

    (first, state), (same, _), (other, _) = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (np.asarray(first) != np.asarray(other)).any(axis=1).all()
    calls = flax.traverse_util.flatten_dict(state["intermediates"])
    dropped = [array for path, sown in calls.items() if "Dropout_0" in path for array in sown]
    # Three in each of two blocks before and one after pooling; one in each pooling.
    assert len(dropped) == 3 * (2 + 1) + 2
    for array in dropped:
        assert 0.2 < np.mean(array == 0) < 0.8


@pytest.mark.parametrize("pool", ["random", "attn_random", "strided_random"])
def test_random_pools_draw_from_their_stream_in_training_alone(pool):
    inputs = tiny_sft.inputs()
    model = tiny_sft.sft(pool=pool)
    variables = tiny_sft.variables(model)
    jax.eval_shape(model.apply, variables, inputs)  # Needs no stream.
    train = functools.partial(model.apply, train=True)
    with pytest.raises(flax.errors.InvalidRngError, match="pool"):
        jax.eval_shape(train, variables, inputs)
    train = jax.jit(train)
    first, same, other = (
        train(variables, inputs, rngs={"pool": jax.random.key(seed)}) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert (np.asarray(first) != np.asarray(other)).any()


@some_pools
def test_bfloat16_tokens_stay_bfloat16_and_logits_are_float32(pool):
    model = tiny_sft.sft(pool=pool, dtype=jnp.bfloat16)
    variables = tiny_sft.variables(model)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    assert _fused_input(model, tiny_sft.inputs()).values.dtype == jnp.bfloat16
    logits = jax.eval_shape(model.apply, variables, tiny_sft.inputs())
    assert logits.dtype == jnp.float32


def test_bfloat16_is_close_to_float32():
    variables, inputs = tiny_sft.variables(tiny_sft.sft()), (tiny_sft.inputs(), tiny_sft.masks())
    exact, rounded = (
        jax.jit(tiny_sft.sft(pool="attn", dtype=dtype).apply)(variables, *inputs)
        for dtype in (None, jnp.bfloat16)
    )
    error = np.abs(exact - rounded).max()
    assert 0 < error < 0.05 * np.abs(exact).max()


def test_bfloat16_inputs_do_not_change_the_type():
    inputs = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), tiny_sft.inputs())
    assert _fused_input(tiny_sft.sft(), inputs).values.dtype == jnp.float32
