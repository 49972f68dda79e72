"""Kernels of Mosaic, interpreted: their numbers, and what is lowered for a TPU."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stored_weights
from jax.experimental import pallas
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sft_jax.ops.attention import mosaic, on_chip, tiled, triton
from sft_jax.ops.attention.tiled import tiled_attention, tiled_self_attention

HEADS = 2
# Queries (None for those of the keys' tokens), keys, queries of a tile, whether keys have sizes,
# and features of a head, which may fill the lanes of a register.
CASES = {
    "a_smaller_last_tile": (None, 10, 4, True, 3),
    "one_tile": (None, 7, 16, False, 3),
    "fewer_queries_than_keys": (5, 9, 2, False, 3),
    "full_lanes": (None, 10, 4, True, 128),
    "fewer_queries_with_full_lanes": (5, 9, 2, False, 128),
}


def _inputs(name):
    """Query, key, value, mask, sizes: scattered padding, none, throughout; NaN at it."""
    queries, keys, _, sized, size = CASES[name]
    random = np.random.default_rng(keys)
    mask = random.random((3, keys)) < 0.6
    mask[0, 0], mask[1], mask[2] = True, True, False
    query = random.normal(size=(3, queries or keys, HEADS, size))
    key, value = random.normal(size=(2, 3, keys, HEADS, size))
    key, value = (np.where(mask[..., None, None], array, np.nan) for array in (key, value))
    if queries is None:
        query = np.where(mask[..., None, None], query, np.nan)
    sizes = np.where(mask, random.integers(1, 5, mask.shape), 0).astype(float) if sized else None
    return (query, key, value), mask, sizes


def _on_chip(*arrays, salient):
    if salient:
        return tiled_self_attention(*arrays, chip=True)
    return (tiled_attention(*arrays, chip=True),)


def _graded(attention, name, inputs, dtype):
    """Outputs, and gradients of queries, keys, values and sizes through all of them."""
    salient = CASES[name][0] is None
    (query, key, value), mask, sizes = inputs
    mask, arrays = jnp.asarray(mask), [jnp.asarray(a, dtype) for a in (query, key, value)]
    wide = jnp.promote_types(dtype, np.float32)
    arrays += [] if sizes is None else [jnp.asarray(sizes, wide)]

    def total(query, key, value, sizes=None):
        actual = attention(query, key, value, mask, sizes, salient=salient)
        terms = ((a * np.cos(np.arange(a.size).reshape(a.shape))).sum() for a in actual)
        return sum(terms), actual

    function = jax.grad(total, argnums=tuple(range(len(arrays))), has_aux=True)
    return jax.device_get(jax.jit(function)(*arrays))


@pytest.fixture(params=["tpu", "cuda"])
def _interpreted(request, monkeypatch):
    """Runs the kernels of a platform on this CPU."""
    call = functools.partial(pallas.pallas_call, interpret=True)
    monkeypatch.setattr(pallas, "pallas_call", call)
    program = lambda function, _, arrays, *__: function(*arrays)  # noqa: E731
    monkeypatch.setattr(on_chip, "platform_program", program)
    target = lambda _, *arrays, **platforms: platforms[request.param](*arrays)  # noqa: E731
    monkeypatch.setattr(tiled, "for_target", target)


@pytest.mark.usefixtures("_interpreted")
@pytest.mark.parametrize(
    ("name", "scale", "dtype", "tolerance"),
    [
        ("a_smaller_last_tile", 1, "float32", 1e-6),
        # The exponentials of the logits overflow float32 by far.
        ("a_smaller_last_tile", 30, "float32", 1e-4),
        ("one_tile", 1, "bfloat16", 0.02),
        ("fewer_queries_than_keys", 1, "float32", 1e-6),
        ("full_lanes", 1, "float32", 1e-6),
        ("full_lanes", 1, "bfloat16", 0.02),
        ("fewer_queries_with_full_lanes", 1, "float32", 1e-6),
    ],
)
def test_kernels_equal_stored_weights_in_float64(name, scale, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(mosaic, "_TILE", CASES[name][2])
    monkeypatch.setattr(triton, "_BLOCK", CASES[name][2])
    (query, key, value), mask, sizes = _inputs(name)
    # Both start from what the type can hold.
    arrays = [
        np.asarray(jnp.asarray(array, dtype), np.float64)
        for array in (query * scale, key * scale, value)
    ]
    inputs = arrays, mask, sizes
    actual = _graded(_on_chip, name, inputs, dtype)
    with jax.enable_x64(True):
        expected = _graded(stored_weights.attend, name, inputs, np.float64)
    for one, other in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        limit = tolerance * max(1, np.abs(other).max())
        np.testing.assert_allclose(one.astype(np.float64), other, rtol=0, atol=limit)
    _, (attended, *_) = actual
    assert attended.dtype == dtype
    assert not attended[2].any()


def _loss(query, key, value, mask):
    return sum(
        jnp.square(a).sum() for a in tiled_self_attention(query, key, value, mask, chip=True)
    )


def _lowered(platform, *arrays):
    traced = jax.jit(jax.grad(_loss, (0, 1, 2))).trace(*arrays)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def _shapes(batch, length, heads, dtype=np.float32, place=lambda *_: None):
    query = jax.ShapeDtypeStruct(
        (batch, length, heads, 8), dtype, sharding=place("data", None, "model")
    )
    return query, query, query, jax.ShapeDtypeStruct((batch, length), bool, sharding=place("data"))


@pytest.mark.parametrize(
    ("platform", "target", "kernels"),
    # On a GPU, what the keys receive and their gradients take a pass of their own.
    [("tpu", "tpu_custom_call", 2), ("cuda", "__gpu$xla.gpu.triton", 4)],
)
def test_a_program_has_the_kernels_and_no_array_of_queries_times_keys(platform, target, kernels):
    program = _lowered(platform, *_shapes(2, 301, 2))
    assert program.count(f"custom_call @{target}") == kernels
    assert "301x301" not in program


def test_a_program_for_a_cpu_has_tiles():
    assert _lowered("cpu", *_shapes(2, 301, 2)).count("custom_call @") == 0


@pytest.mark.parametrize(("length", "dtype"), [(20_000, np.float32), (301, np.float16)])
def test_what_the_kernels_do_not_take_is_computed_by_tiles(length, dtype):
    assert "tpu_custom_call" not in _lowered("tpu", *_shapes(1, length, 1, dtype))


def test_devices_divide_examples_and_heads():
    mesh = jax.make_mesh((4, 2), ("data", "model"), (AxisType.Auto,) * 2)
    place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))  # noqa: E731
    program = _lowered("tpu", *_shapes(4, 301, 2, place=place))
    on_a_device = re.findall(r"manual_axes=\{[^}]*\} \(%\w+: tensor<([\dx]+)xf32>", program)
    assert on_a_device == ["1x1x301x8"] * 2
    alone = functools.partial(place, "data")
    own = jax.shard_map(
        lambda query, mask: tiled_attention(query, query, query, mask, chip=True),
        mesh=mesh,
        in_specs=alone().spec,
        out_specs=alone().spec,
    )
    query, *_, mask = _shapes(4, 301, 2)
    for platform in ("tpu", "cuda"):
        lowered = jax.jit(own).trace(query, mask).lower(lowering_platforms=(platform,))
        assert "tensor<1x2x301x8xf32>" in lowered.as_text()
    # Three examples and one head can't be divided: each device computes all of them.
    uneven = _lowered("tpu", *_shapes(3, 301, 1, place=lambda *_: place()))
    assert "tensor<3x1x301x8xf32>" in uneven
