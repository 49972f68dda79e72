"""One CPU device computes the numbers of several, random ones included.

Run as a program, this file takes the steps on one device and saves the results.
"""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from sparing import slow_but

from sft_jax import Batch, ModalitySpec
from sft_jax.config import ExperimentConfig, MixupConfig, ModelConfig, OptimConfig, TrainConfig
from sft_jax.parallel import sharding
from sft_jax.training import assembly

STEPS, BATCH = 20, 16
CONFIG = ExperimentConfig(
    model=ModelConfig(width=8, num_heads=2, n_pre=1, n_post=1, k=3, pool="random", dropout=0.3),
    # Its updates are in proportion to the gradients, whose sum is compared.
    optim=OptimConfig(name="sgd", lr=0.1, warmup_epochs=0.0, schedule="constant", clip_norm=0.0),
    train=TrainConfig(batch_size=BATCH, epochs=2, modality_dropout=0.2),
    mixup=MixupConfig(layers="any", warmup_epochs=0.0),
)


def take_steps(length, pool, parts, devices):
    """Takes all steps; returns their losses and gradient norms, and the parameters."""
    model = dataclasses.replace(CONFIG.model, pool=pool, parts=parts)
    config = dataclasses.replace(CONFIG, model=model)
    specs = {"sound": ModalitySpec(length, 2), "touch": ModalitySpec(12, 3)}
    mesh = sharding.make_mesh(devices=devices)
    assembled = assembly.assemble_model(config, specs, 4, num_examples=10 * BATCH, mesh=mesh)
    random = np.random.default_rng(0)
    state, reports = assembled.new_state(0), []
    for _ in range(STEPS):
        batch = Batch(
            {n: random.normal(size=(BATCH, *s.shape)).astype(np.float32) for n, s in specs.items()},
            {n: random.random((BATCH, s.length)) < 0.9 for n, s in specs.items()},
            random.integers(0, 4, BATCH),
            np.ones(BATCH, np.float32),
        )
        state, metrics = assembled.step(state, sharding.put_batch(batch, mesh), np.int32(1))
        reports.append((metrics.loss, metrics.gradient_norm))
    leaves = jax.tree.leaves(jax.device_get(state.params))
    parameters = np.concatenate([leaf.ravel() for leaf in leaves])
    return assembled.model.parts, np.asarray(reports), parameters


@pytest.fixture
def uncached():
    """Without the cache on disk: once loaded from it, this program of eight CPU devices hangs."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.mark.process
@pytest.mark.usefixtures("uncached")
@pytest.mark.parametrize(
    ("length", "pool"),
    slow_but([(200, "random"), (200, "attn_random"), (600, "strided_random")], (200, "random")),
)
def test_one_device_in_groups_equals_several(length, pool, tmp_path):
    """One device takes the examples one by one, eight in two groups, and two at once."""
    others = [(2, 8)] if (length, pool) == (200, "random") else [(2, 8), (0, 2), (1, 8)]
    path = tmp_path / "one.npz"
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    program = [sys.executable, __file__, str(length), pool, str(path)]
    tests = os.path.dirname(os.path.dirname(__file__))
    paths = os.pathsep.join([tests, os.path.dirname(tests)])
    environ = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": paths}
    with subprocess.Popen(program, env=environ) as child:
        several = [take_steps(length, pool, p, jax.devices()[:n]) for p, n in others]
        assert child.wait() == 0
    one = np.load(path)
    assert [one["parts"], *(parts for parts, _, _ in several)] == [
        BATCH,
        *(p or 1 for p, _ in others),
    ]
    for _, losses, parameters in several:
        np.testing.assert_allclose(losses, one["losses"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(parameters, one["parameters"], rtol=0, atol=1e-5)


if __name__ == "__main__":
    length, pool, path = sys.argv[1:]
    assert jax.device_count() == 1
    parts, losses, parameters = take_steps(int(length), pool, 0, jax.devices())
    np.savez(path, parts=parts, losses=losses, parameters=parameters)
