"""Attention by tiles of queries against attention with all its weights, and its cost."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stored_weights
from jax.sharding import AxisType, PartitionSpec

from sft_jax.ops.attention import tiled as ops
from sft_jax.ops.attention import tiles
from sft_jax.ops.attention.tiled import SAVED, tiled_attention, tiled_self_attention
from sft_jax.ops.target import ACCELERATOR, CPU
from sft_jax.profile.flops import count

HEADS, SIZE = 2, 3
LARGE = 30.0
"""Times the queries and keys: the exponentials of the logits overflow float32 by far."""

# Queries (None for those of the keys' tokens), keys, queries of a block, whether keys have sizes.
CASES = {
    "one_block": (None, 7, 16, True),
    "whole_blocks": (None, 6, 3, False),
    "a_smaller_last_block": (None, 10, 4, True),
    "fewer_queries_than_keys": (5, 9, 2, True),
    "more_queries_than_keys": (8, 4, 4, False),
    "less_than_a_block": (1, 6, 4, False),
}


def _inputs(name, dtype=np.float64):
    """Query, key, value, mask, sizes: padding scattered, late, none, throughout; NaN at it."""
    queries, keys, _, sized = CASES[name]
    random = np.random.default_rng(keys)
    mask = random.random((4, keys)) < 0.6
    mask[1] = np.arange(keys) < keys // 2
    mask[2], mask[3] = True, False
    mask[:3, 0] = True
    query = random.normal(size=(4, queries or keys, HEADS, SIZE))
    key, value = random.normal(size=(2, 4, keys, HEADS, SIZE))
    key, value = (np.where(mask[..., None, None], array, np.nan) for array in (key, value))
    if queries is None:
        query = np.where(mask[..., None, None], query, np.nan)
    sizes = np.where(mask, random.integers(1, 5, mask.shape), 0) if sized else None
    arrays = tuple(jnp.asarray(array, dtype) for array in (query, key, value))
    kind = jnp.promote_types(dtype, np.float32)
    return arrays, jnp.asarray(mask), None if sizes is None else jnp.asarray(sizes, kind)


def _blocked(query, key, value, mask, sizes, *, salient):
    if salient:
        return tiled_self_attention(query, key, value, mask, sizes)
    return (tiled_attention(query, key, value, mask, sizes),)


@functools.cache
def _compiled(name, attention, on_cpu):
    """Output of attention, and the gradients of its inputs, sizes too, through all of it.

    `on_cpu` is as `_run` patches it: each has a program of its own.
    """
    salient = CASES[name][0] is None

    def total(arrays, mask, sizes):
        actual = attention(*arrays, mask, sizes, salient=salient)
        # In float32 at least, so that a low precision has the same cotangents.
        each = [
            (a * jnp.cos(jnp.arange(a.size, dtype=jnp.float32)).reshape(a.shape)) for a in actual
        ]
        return sum(a.sum() for a in each), actual

    def graded(arrays, mask, sizes):
        sized = sizes is not None
        gradient = jax.grad(total, argnums=(0, 2) if sized else (0,), has_aux=True)
        (gradients, *d_sizes), actual = gradient(arrays, mask, sizes)
        named = dict(zip(("q", "k", "v", "sizes"), (*gradients, *d_sizes), strict=sized))
        return {"attended": actual[0]} | named | ({"saliency": actual[1]} if salient else {})

    return jax.jit(graded)


def _aim(patch, on_cpu):
    """Computes the layout for a CPU or for an accelerator, on this CPU."""
    target = CPU if on_cpu else ACCELERATOR
    patch.setattr(ops, "for_target", lambda kernel, *arrays: kernel(target, *arrays))


def _run(name, attention, inputs, on_cpu=True):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "_tile_size", lambda target, num_keys: CASES[name][2])
        _aim(patch, on_cpu)
        return jax.device_get(_compiled(name, attention, on_cpu)(*inputs))


def _both(name, inputs, on_cpu=True):
    return _run(name, _blocked, inputs, on_cpu), _run(name, stored_weights.attend, inputs)


def _scaled(inputs, scale):
    (query, key, value), mask, sizes = inputs
    return (query * scale, key * scale, value), mask, sizes


def _assert_close(actual, expected, tolerance):
    for part, array in actual.items():
        assert np.isfinite(array).all(), part
        limit = tolerance * max(1, np.abs(expected[part]).max())
        np.testing.assert_allclose(array, expected[part], rtol=0, atol=limit, err_msg=part)


@pytest.mark.parametrize("name", CASES)
def test_equals_attention_that_stores_its_weights(name):
    with jax.enable_x64(True):
        inputs = _inputs(name)
        mask = np.asarray(inputs[1])
        for scale in (1, LARGE):
            actual, expected = _both(name, _scaled(inputs, scale))
            _assert_close(actual, expected, 1e-10)
            assert (actual["attended"][3] == 0).all()
            assert not actual["k"][~mask].any()
            assert not actual["v"][~mask].any()
            assert not actual.get("sizes", mask)[~mask].any()


@pytest.mark.parametrize("name", ["a_smaller_last_block", "fewer_queries_than_keys"])
def test_equals_it_where_all_heads_are_computed_at_once(name):
    with jax.enable_x64(True):
        for scale in (1, LARGE):
            _assert_close(*_both(name, _scaled(_inputs(name), scale), on_cpu=False), 1e-10)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_float32_is_as_exact_as_with_stored_weights(on_cpu):
    name = "a_smaller_last_block"
    inputs = _inputs(name, np.float32)
    # Those larger than 1 are on either side of where the shift begins.
    for scale in (1, 3, 6, LARGE):
        actual, expected = _both(name, _scaled(inputs, scale), on_cpu)
        # Logits are rounded in proportion to their size.
        _assert_close(actual, expected, 1e-5 * scale**2)


def test_masked_keys_have_no_effect_among_very_negative_logits():
    name = "a_smaller_last_block"
    (query, key, value), mask, sizes = _inputs(name, np.float32)
    # All real logits are about -2800, and that of a masked key, of zeros, would be 0.
    actual, expected = _both(name, ((40 + 0 * query, -40 + 0.1 * key, value), mask, sizes))
    _assert_close({part: actual[part] for part in ("attended", "saliency")}, expected, 1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.03), ("float16", 0.004)])
def test_low_precision_is_kept_and_close(dtype, tolerance):
    name = "a_smaller_last_block"
    (query, key, value), mask, sizes = _inputs(name, dtype)
    # The largest exponential of the logits, 3e7, is beyond float16.
    query, key = jnp.full_like(query, 5), jnp.where(key > 0, 2, -2).astype(key.dtype)
    actual = _run(name, _blocked, ((query, key, value), mask, sizes))
    exact = tuple(array.astype(np.float32) for array in (query, key, value))
    expected = _run(name, stored_weights.attend, (exact, mask, sizes))
    assert actual["saliency"].dtype == np.float32
    assert {actual[part].dtype for part in ("attended", *"qkv")} == {jnp.dtype(dtype)}
    _assert_close(jax.tree.map(np.float32, actual), expected, tolerance)


def _training_cost(length, wrap=lambda function: function):
    heads = jax.ShapeDtypeStruct((2, length, 5, 8), np.float32)
    mask = jax.ShapeDtypeStruct((2, length), bool)

    @wrap
    def loss(query, key, value, mask):
        attended, received = tiled_self_attention(query, key, value, mask)
        return (attended**2).sum() + (received**2).sum()

    return count(jax.value_and_grad(loss, argnums=(0, 1, 2)), heads, heads, heads, mask)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_memory_grows_linearly_with_the_length(on_cpu, monkeypatch):
    _aim(monkeypatch, on_cpu)
    short, long = _training_cost(512), _training_cost(2048)
    assert long.matmul_flops > 15 * short.matmul_flops
    assert long.largest_bytes < 4.1 * short.largest_bytes
    assert long.largest_bytes < 2 * 5 * 2048**2 * 4 / 7


def test_rematerialisation_can_keep_all_that_the_gradient_needs():
    policy = jax.checkpoint_policies.save_only_these_names(SAVED)
    plain, kept, again = (
        _training_cost(256, wrap).matmul_flops
        for wrap in (
            lambda function: function,
            functools.partial(jax.checkpoint, policy=policy),
            jax.checkpoint,
        )
    )
    assert plain == kept < again


@pytest.mark.parametrize("attend", [tiled_attention, tiled_self_attention])
def test_devices_share_some_arrays(attend):
    # As a model without masks has it, and one whose keys do not depend on the example.
    devices = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    arrays = np.random.default_rng(0).normal(size=(3, 2, 20, 1, 4)).astype(np.float32)
    mask = jnp.ones((1, 20), bool)

    def loss(query, key, value, attend):
        return sum(jnp.square(array).sum() for array in jax.tree.leaves(attend(query, key, value)))

    def together(query, key, value):
        keys = (jnp.broadcast_to(array[:1], query.shape) for array in (key, value))
        return attend(query, *keys, jnp.broadcast_to(mask, query.shape[:2]))

    divided = jax.shard_map(
        lambda query, key, value: attend(query, key[:1], value[:1], mask),
        mesh=devices,
        in_specs=(PartitionSpec("data"), PartitionSpec(), PartitionSpec()),
        out_specs=PartitionSpec("data"),
    )
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)
    chex.assert_trees_all_close(gradient(*arrays, divided), gradient(*arrays, together), rtol=1e-4)
