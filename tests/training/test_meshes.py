"""Training on meshes of several shapes, and from one to another."""

import functools
import json

import jax
import numpy as np
import pytest
import synthetic
from jax.sharding import PartitionSpec

from sft_jax.config import MeshConfig
from sft_jax.training import distributed

# 60 examples in batches of 16 over 6 epochs: 23 steps.
EXPERIMENT = {
    "model__dropout": 0.0,
    "model__n_pre": 1,
    "model__n_post": 3,
    "train__epochs": 7,
    "train__evaluate_every_epochs": 7,
    "train__batch_size": 16,
    "train__ema_decay": 0.5,
}
MODELS = ("sft", "late", "concat", "mbt", "mult", "unimodal")
MESHES = {
    "data": (8, {}),
    "fsdp": (8, {"fsdp": 8}),
    "model": (2, {"model": 2}),
    "all": (8, {"data": 2, "fsdp": 2, "model": 2}),
}


def _experiment(model, mesh=None):
    changes = {f"mesh__{axis}": size for axis, size in (mesh or {}).items()}
    return synthetic.config(**EXPERIMENT, model__name=model, **changes)


def _losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


@functools.cache
def _on_one_device(model, folder):
    workdir = folder / f"one_{model}"
    workdir.mkdir()
    synthetic.run(workdir, _experiment(model))
    return _losses(workdir)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("meshes")


@pytest.mark.parametrize(
    ("model", "mesh"),
    [("sft", name) for name in MESHES] + [(name, "all") for name in MODELS[1:]],
)
def test_no_number_depends_on_the_mesh(folder, tmp_path, model, mesh):
    losses = _on_one_device(model, folder)
    count, axes = MESHES[mesh]
    result, evaluator = synthetic.run(
        tmp_path, _experiment(model, axes), devices=jax.devices()[:count]
    )
    assert (result.train_compiles, evaluator.compiles) == (1, 1)
    assert len(losses) >= 20
    np.testing.assert_allclose(_losses(tmp_path), losses, rtol=0, atol=1e-5)
    if model == "sft":
        state = result.state
        for tree in (state.params, state.ema_params, state.opt_state[1][0].mu):
            kernel = tree["fused"]["mlp_in"]["kernel"]
            divided = PartitionSpec(
                None, *(axis if axes.get(axis, 1) > 1 else None for axis in ("fsdp", "model"))
            )
            whole = kernel.sharding.is_equivalent_to(
                jax.sharding.NamedSharding(kernel.sharding.mesh, divided), kernel.ndim
            )
            assert whole
            share = axes.get("fsdp", 1) * axes.get("model", 1)
            assert kernel.addressable_shards[0].data.size * share == kernel.size


@pytest.mark.parametrize(
    ("axes", "count", "message"),
    [
        ({"data": 3}, 8, "mesh.data=3, .* take 3 devices, and there are 8"),
        ({"fsdp": 3}, 8, "take a multiple of 3 devices, and there are 8"),
        ({"model": 16}, 8, "take a multiple of 16 devices"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(axes, count, message):
    with pytest.raises(ValueError, match=message):
        distributed.make_mesh(MeshConfig(**axes), jax.devices()[:count])
