"""Training steps of all models, with JAX refusing to combine arrays of different ranks."""

import jax
import numpy as np
import pytest

from sft_jax import Batch, ModalitySpec
from sft_jax.config import ExperimentConfig, MixupConfig, ModelConfig, OptimConfig, TrainConfig
from sft_jax.parallel import sharding
from sft_jax.training import assembly

SPECS = {"sound": ModalitySpec(140, 2), "sight": ModalitySpec((6, 6), 1, 2)}
CASES = {
    "sft": {"dropout": 0.1, "pool": "attn_random"},
    "ordinal": {"task": "ordinal", "pool": "evit"},
    "tome": {"pool": "tome", "unimodal_attention": "windowed", "parts": 2},
    "wkmedoids": {"pool": "attn_wkmedoids", "unimodal_attention": "block_sparse"},
    "mbt": {"name": "mbt", "dropout": 0.1},
    "mult": {"name": "mult", "dropout": 0.1},
    "concat": {"name": "concat"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_training_step_promotes_no_rank(case):
    config = ExperimentConfig(
        model=ModelConfig(**{"width": 8, "num_heads": 2, "n_post": 1, "k": 3} | CASES[case]),
        optim=OptimConfig(warmup_epochs=0.0),
        train=TrainConfig(batch_size=4, modality_dropout=0.3, ema_decay=0.9, label_smoothing=0.1),
        mixup=MixupConfig(layers="any", warmup_epochs=0.0),
    )
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.numpy_rank_promotion("raise"):
        assembled = assembly.assemble_model(config, SPECS, 4, num_examples=40, mesh=mesh)
        batch = Batch(
            inputs={n: np.zeros((4, *s.shape), np.float32) for n, s in SPECS.items()},
            masks={n: np.ones((4, *s.lengths), bool) for n, s in SPECS.items()},
            labels=np.arange(4),
            weights=np.ones(4, np.float32),
        )
        state, metrics = jax.eval_shape(assembled.step, assembled.like, batch, np.int32(0))
    assert metrics.example_loss.shape == (4,)
    assert jax.tree.structure(state) == jax.tree.structure(assembled.like)
