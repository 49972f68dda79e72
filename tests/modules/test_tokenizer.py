"""Patches of sequences, images and videos, and the description of their shapes."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import patches
import pytest

from sft_jax import ModalitySpec
from sft_jax.modules.tokenizer import Tokenizer, columns, patchify

SIZES = [
    ((7,), (1,)),
    ((7,), (3,)),
    ((5, 7), (2, 3)),
    ((4, 6), (4, 2)),
    ((3, 5, 4), (2, 2, 3)),
]


@pytest.mark.parametrize(("lengths", "patch_sizes"), SIZES)
def test_patches_are_those_cut_by_hand(lengths, patch_sizes):
    random = np.random.default_rng(0)
    values = random.normal(size=(3, *lengths, 2)).astype(np.float32)
    mask = random.random((3, *lengths)) < 0.3
    values[~mask] = np.nan
    mask[0], values[0] = True, 1.0
    tokens = patchify(jnp.asarray(values), jnp.asarray(mask), patch_sizes)
    expected, real = patches.by_hand(values, mask, patch_sizes)
    np.testing.assert_array_equal(tokens.values, expected)
    np.testing.assert_array_equal(tokens.mask, real)
    spec = ModalitySpec(lengths, 2, patch_sizes)
    assert tokens.values.shape == (3, spec.num_tokens, np.prod(patch_sizes) * 2)
    assert real[0].all()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_token_of_a_vector_has_its_own_columns_alone(size):
    values = np.arange(1, 11, dtype=np.float32).reshape(2, 1, 5)
    mask = np.array([[True], [False]])
    tokens = columns(jnp.asarray(values), jnp.asarray(mask), size)
    assert tokens.values.shape == (2, ModalitySpec(1, 5, size, "vector").num_tokens, 5)
    for i, token in enumerate(tokens.values[0]):
        own = np.arange(5) // size == i
        np.testing.assert_array_equal(token, np.where(own, values[0, 0], 0))
    assert not tokens.values[1].any()
    np.testing.assert_array_equal(tokens.mask, np.broadcast_to(mask, tokens.mask.shape))


def test_a_token_of_an_id_is_a_row_of_the_table():
    tokenizer = Tokenizer(ModalitySpec(3, 1, kind="tokens", vocabulary=5), 4)
    ids = jnp.array([[[4.0], [0.0], [np.nan]]])
    mask = jnp.array([[True, True, False]])
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(tokenizer.init, jax.random.key(0), ids, mask)["params"]
    assert shapes["table"]["embedding"].shape == (5, 4)
    params = jax.tree.map(lambda a: random.normal(size=a.shape).astype(np.float32), shapes)
    tokens = tokenizer.apply({"params": params}, ids, mask)
    table, position = params["table"]["embedding"], params["position"]
    np.testing.assert_allclose(tokens.values[0, 1:3], table[[4, 0]] + position[0, 1:3], rtol=1e-6)
    np.testing.assert_array_equal(tokens.mask, [[True, True, True, False]])
    assert np.isfinite(tokens.values).all()


def test_an_event_is_the_sum_of_its_type_value_and_time():
    tokenizer = Tokenizer(ModalitySpec(2, 3, 1, "events", 4), 5)
    events = jnp.array([[[0.5, 3.0, 2.0], [np.nan, np.nan, np.nan]]])
    mask = jnp.array([[True, False]])
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(tokenizer.init, jax.random.key(0), events, mask)["params"]
    params = jax.tree.map(lambda a: random.normal(size=a.shape).astype(np.float32), shapes)
    tokens = tokenizer.apply({"params": params}, events, mask)
    table, scale = (params[name]["embedding"][3] for name in ("table", "scale"))
    phases = np.pi * 0.5 * 2.0 ** np.arange(4)
    time = np.array([0.5, *np.sin(phases), *np.cos(phases)]) @ params["time"]["kernel"]
    expected = table + 2 * scale + time + params["time"]["bias"] + params["position"][0, 1]
    np.testing.assert_allclose(tokens.values[0, 1], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(tokens.mask, [[True, True, False]])
    assert np.isfinite(tokens.values).all()


def test_a_spec_of_a_sequence_keeps_its_numbers():
    spec = ModalitySpec(7, 2, 3)
    assert (
        repr(spec)
        == "ModalitySpec(length=7, features=2, patch_size=3, kind='series', vocabulary=0)"
    )
    assert (spec.lengths, spec.patch_sizes, spec.shape) == ((7,), (3,), (7, 2))
    assert spec.num_tokens == 3


def test_one_patch_size_is_for_every_axis():
    spec = ModalitySpec((5, 7, 4), 2, patch_size=3)
    assert (spec.length, spec.patch_size) == ((5, 7, 4), 3)
    assert (spec.lengths, spec.patch_sizes, spec.shape) == ((5, 7, 4), (3, 3, 3), (5, 7, 4, 2))
    assert spec.num_tokens == 2 * 3 * 2


@pytest.mark.parametrize("spec", [ModalitySpec(7, 2, 3), ModalitySpec((5, 7), 2, (2, 3))])
def test_a_spec_survives_json(spec):
    again = ModalitySpec(**json.loads(json.dumps(dataclasses.asdict(spec))))
    assert again == spec
    assert hash(again) == hash(spec)


def test_the_hand_cuts_as_a_picture_is_read():
    image = np.arange(12.0).reshape(1, 3, 4, 1)
    cut, real = patches.by_hand(image, np.ones((1, 3, 4), bool), (2, 2))
    assert cut[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 0, 0], [10, 11, 0, 0]]
    assert list(itertools.chain(*real)) == [True] * 4
