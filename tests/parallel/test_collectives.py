"""Examples stay divided over the devices: the collectives of a training step are few."""

import re

import jax
import numpy as np
import pytest

from sft_jax import Batch, ModalitySpec
from sft_jax.compile import hlo
from sft_jax.config import (
    ExperimentConfig,
    MeshConfig,
    MixupConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from sft_jax.parallel import sharding
from sft_jax.training import assembly

SPECS = {"acc": ModalitySpec(20, 3), "gyr": ModalitySpec(20, 3)}
BATCH = 24


def step(mesh, layers, n_post):
    config = ExperimentConfig(
        model=ModelConfig(n_post=n_post),
        optim=OptimConfig(warmup_epochs=0.0),
        train=TrainConfig(batch_size=BATCH, epochs=2),
        mixup=MixupConfig(layers=layers, warmup_epochs=0.0),
        mesh=mesh,
    )
    mesh = sharding.make_mesh(config.mesh, jax.devices()[: mesh.data * mesh.fsdp])
    assembled = assembly.assemble_model(config, SPECS, 10, num_examples=240, mesh=mesh)
    batch = Batch(
        inputs={n: np.zeros((BATCH, *s.shape), np.float32) for n, s in SPECS.items()},
        masks={n: np.ones((BATCH, s.length), bool) for n, s in SPECS.items()},
        labels=np.zeros(BATCH, np.int32),
        weights=np.ones(BATCH, np.float32),
    )
    seed = jax.device_put(np.int32(0), sharding.replicated(mesh))
    placed = sharding.put_batch(batch, mesh)
    return assembled.step.lower(assembled.like, placed, seed).compile().as_text()


@pytest.mark.process
@pytest.mark.parametrize(
    ("mesh", "layers", "most"),
    [
        pytest.param(MeshConfig(data=1, fsdp=4), "none", 60, marks=pytest.mark.slow),
        # Partners are on the same device: mixing adds nothing.
        (MeshConfig(data=1, fsdp=4), "any", 60),
        (MeshConfig(data=4, fsdp=1), "any", 14),
    ],
)
def test_examples_stay_where_they_are(mesh, layers, most):
    exchanges = hlo.count(step(mesh, layers, n_post=6)).collectives.values()
    shapes = [one.shape for one in exchanges for _ in range(int(one.times))]
    assert 0 < len(shapes) <= most, shapes
    # Except the scores of `top_k`, nothing holds the examples of all devices.
    assert not [shape for shape in shapes if re.match(rf"\S*\[{BATCH},(?!20\])", shape)]
