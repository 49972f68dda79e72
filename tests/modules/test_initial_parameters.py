"""Initial parameters against those of the authors' code, over 20 seeds of theirs.

`golden/sft_initial_parameters.json` holds the root mean square and the largest magnitude of
each kind of parameter of their model of this size (its query, key and value in one).
"""

import json
import pathlib

import flax.traverse_util
import jax
import numpy as np
import pytest

from sft_jax import ModalitySpec, SparseFusionTransformer

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
EXPECTED = json.loads((GOLDEN / "sft_initial_parameters.json").read_text())


@pytest.fixture(scope="module")
def drawn():
    """20 draws of each parameter."""
    model = SparseFusionTransformer(
        num_classes=10, modalities={"rgb": ModalitySpec(38, 1024)}, n_pre=1, n_post=1
    )

    @jax.jit
    @jax.vmap
    def init(key):
        return model.init(key, model.example_inputs())["params"]

    params = init(jax.random.split(jax.random.key(0), 20))
    return flax.traverse_util.flatten_dict(params, sep="/")


def test_every_parameter_is_compared(drawn):
    assert set(drawn) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_initial_parameters_are_distributed_as_theirs(drawn, name):
    values, expected = np.asarray(drawn[name]), EXPECTED[name]
    # The sampling error of a root mean square is less than 0.71 / sqrt(n) of it, on both sides.
    tolerance = 4 / np.sqrt(values.size)
    assert np.sqrt(np.mean(values**2)) == pytest.approx(expected["rms"], rel=tolerance)
    if expected["rms"] < 0.9:  # Not normal: the uniform ones have a bound.
        assert np.abs(values).max() == pytest.approx(expected["max_abs"], rel=0.01)
    if values.ndim > 2 or name.endswith("bias"):
        assert abs(values.mean()) <= tolerance * expected["rms"]


def test_parameters_differ_by_key_and_from_each_other(drawn):
    assert (drawn["fused_0/mlp_in/kernel"][0] != drawn["fused_0/mlp_in/kernel"][1]).any()
    assert (drawn["fused_0/mlp_in/kernel"][0] != drawn["fused_0/mlp_out/kernel"][0]).any()


def test_cls_and_positions_can_be_drawn_smaller():
    modalities = {"rgb": ModalitySpec(38, 1024)}
    model = SparseFusionTransformer(10, modalities, n_pre=0, n_post=0, embedding_std=0.02)
    tokenizer = model.init(jax.random.key(0), model.example_inputs())["params"]["tokenizer_rgb"]
    assert np.std(tokenizer["position"]) == pytest.approx(0.02, rel=0.1)
    assert np.std(tokenizer["cls"]) == pytest.approx(0.02, rel=0.5)
