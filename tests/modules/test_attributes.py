"""Attributes of models: equal ones have one hash, and parameters have one type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax import ModalitySpec, SparseFusionTransformer
from sft_jax.modules.mbt import BottleneckTransformer

MODALITIES = {"a": ModalitySpec(6, 2), "b": ModalitySpec([4, 4], 1, patch_size=[2, 2])}


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, np.dtype(jnp.bfloat16)])
def test_equal_models_have_one_hash(dtype):
    model = SparseFusionTransformer(3, dict(reversed(MODALITIES.items())), dtype=dtype)
    same = SparseFusionTransformer(3, MODALITIES, dtype="bfloat16")
    assert (model, hash(model)) == (same, hash(same))


def test_numbers_of_numpy():
    model = SparseFusionTransformer(3, MODALITIES, k=np.int64(2), n_post=1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())
    assert shapes["params"]["unimodal_a_0"]


@pytest.mark.parametrize(
    "model",
    [
        SparseFusionTransformer(3, MODALITIES, pool="perceiver", k=2, n_post=1),
        BottleneckTransformer(3, MODALITIES, n_post=1),
    ],
    ids=lambda model: type(model).__name__,
)
def test_parameters_are_float32_in_64_bits(model):
    with jax.enable_x64(True):
        shapes = jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())
    assert {array.dtype.name for array in jax.tree.leaves(shapes)} == {"float32"}
