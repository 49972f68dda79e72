"""Training on meshes of several shapes, and from one to another."""

import contextlib
import functools

import jax
import numpy as np
import pytest
import synthetic
from jax.sharding import PartitionSpec
from sparing import slow_but

from sft_jax.config import MeshConfig
from sft_jax.parallel import sharding
from sft_jax.runs.checkpoint import Checkpoints

pytestmark = pytest.mark.process

# 50 examples in batches of 16 over 4 epochs: 13 steps.
EXPERIMENT = {
    "model__dropout": 0.0,
    "model__n_pre": 1,
    "model__n_post": 2,
    "train__epochs": 4,
    "train__batch_size": 16,
    "train__ema_decay": 0.5,
}
LONG = {"train__epochs": 7, "train__evaluate_every_epochs": 1}
"""Changes for a run with a checkpoint after every third step, 22 in all."""

MODELS = ("sft", "late", "concat", "mbt", "mult", "unimodal")
MESHES = {
    "data": (8, {}),
    "fsdp": (8, {"fsdp": 8}),
    "model": (2, {"model": 2}),
    "all": (8, {"data": 2, "fsdp": 2, "model": 2}),
}


def experiment(model, mesh=None, **changes):
    changes |= {f"mesh__{axis}": size for axis, size in (mesh or {}).items()}
    changes.setdefault("train__evaluate_every_epochs", 4)
    if model == "unimodal":
        changes["model__modality"] = "sight"
    return synthetic.config(**EXPERIMENT | {"model__name": model} | changes)


@functools.cache
def _on_one_device(model, folder):
    workdir = folder / f"one_{model}"
    workdir.mkdir()
    synthetic.run(workdir, experiment(model))
    return synthetic.training_losses(workdir)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("meshes")


@pytest.mark.parametrize(
    ("model", "mesh"),
    slow_but(
        [("sft", name) for name in MESHES] + [(name, "all") for name in MODELS[1:]],
        ("sft", "all"),
    ),
)
def test_no_number_depends_on_the_mesh(folder, tmp_path, model, mesh):
    alone = _on_one_device(model, folder)
    count, axes = MESHES[mesh]
    result, evaluator = synthetic.run(
        tmp_path, experiment(model, axes), devices=jax.devices()[:count]
    )
    assert (result.train_compiles, evaluator.compiles) == (1, 1)
    assert len(alone) == 13
    np.testing.assert_allclose(synthetic.training_losses(tmp_path), alone, rtol=0, atol=1e-5)
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


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_on_other_devices(tmp_path, monkeypatch):
    saved, restored = {}, []
    save, resume = Checkpoints.save, Checkpoints.resume

    def saving(self, kind, state, description):
        saved[int(state.step)] = synthetic.fingerprint(state)
        save(self, kind, state, description)

    def resuming(self, like):
        resumed = resume(self, like)
        if resumed:
            restored.append((int(resumed[0].step), synthetic.fingerprint(resumed[0])))
        return resumed

    def run(workdir, devices, axes, last):
        seen = []
        changed, devices = experiment("sft", axes, **LONG), jax.devices()[:devices]
        with contextlib.suppress(synthetic.Killed):
            wrap = synthetic.ending_after(last, lambda ids: seen.append(sorted(ids)))
            synthetic.run(workdir, changed, devices=devices, wrap=wrap)
        return seen

    unbroken = run(tmp_path / "unbroken", 1, {}, 99)
    saved.clear()
    monkeypatch.setattr(Checkpoints, "save", saving)
    monkeypatch.setattr(Checkpoints, "resume", resuming)
    batches = []
    # Each ends one step after a checkpoint, which it forgets.
    turns = [(8, MESHES["all"][1], 5), (4, {"fsdp": 4}, 4), (1, {}, 4), (8, {}, 99)]
    for devices, axes, last in turns:
        batches[len(batches) - bool(batches) :] = run(tmp_path / "run", devices, axes, last)
    assert batches == unbroken
    assert [step for step, _ in restored] == [4, 7, 10]
    assert all(saved[step] == digest for step, digest in restored)
    one, moved = (synthetic.training_losses(tmp_path / name) for name in ("unbroken", "run"))
    np.testing.assert_allclose(moved, one, rtol=0, atol=1e-5)


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
        sharding.make_mesh(MeshConfig(**axes), jax.devices()[:count])
