"""A batch without examples has no logits, and is no error."""

import jax
import numpy as np
import pytest

from sft_jax import ModalitySpec
from sft_jax.config import ModelConfig
from sft_jax.modules.factory import build_model

MODALITIES = {"sound": ModalitySpec(140, 2), "sight": ModalitySpec((6, 6), 1, 2)}
CASES = {
    **{pool: {"pool": pool} for pool in ("max", "attn", "evit", "tome", "strided_random")},
    "windowed": {"unimodal_attention": "windowed", "pre_pooling_attention": "windowed"},
    "block_sparse": {"unimodal_attention": "block_sparse", "pre_pooling_attention": "block_sparse"},
    "mbt": {"name": "mbt"},
}


@pytest.mark.parametrize("case", CASES)
def test_no_example_gives_no_logits(case):
    config = ModelConfig(**{"width": 8, "num_heads": 2, "n_post": 1, "k": 2} | CASES[case])
    model = build_model(config, MODALITIES, 3)
    variables = jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())
    none = {name: np.zeros((0, *spec.shape), np.float32) for name, spec in MODALITIES.items()}
    assert jax.eval_shape(model.apply, variables, none).shape == (0, 3)
