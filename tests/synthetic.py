"""A small learnable dataset of two padded, sometimes absent modalities, and runs on it."""

import dataclasses
import functools
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from sft_jax import ModalitySpec, config_io
from sft_jax.config import (
    ExperimentConfig,
    MeshConfig,
    MixupConfig,
    ModelConfig,
    OptimConfig,
    SystemConfig,
    TrainConfig,
)
from sft_jax.data import pipeline
from sft_jax.data.dataset import Dataset, DatasetInfo, compute_statistics
from sft_jax.data.sets.watch.entry import WatchData
from sft_jax.evaluation.evaluator import Evaluator
from sft_jax.modules.factory import build_model
from sft_jax.parallel import sharding
from sft_jax.runs.checkpoint import Checkpoints
from sft_jax.runs.directory import RunDirectory
from sft_jax.training import assembly, loop, optim
from sft_jax.training.state import TrainState, state_shapes

MODALITIES = {"sight": ModalitySpec(12, 3, patch_size=2), "sound": ModalitySpec(7, 2)}
CLASSES = ("low", "middle", "high")


NAMES = {
    "single_label": CLASSES,
    "ordinal": CLASSES,
    "multi_label": ("above low", "above middle"),
    "regression": ("shift", "twice less"),
}


def example(index, task="single_label"):
    """Example whose label follows from the mean of both modalities."""
    random = np.random.default_rng(index)
    if task == "regression":
        shift = random.uniform(-1, 1)
        label = np.array([shift, 1 - 2 * shift])
    else:
        label = int(random.integers(len(CLASSES)))
        shift = label - 1
    if task == "multi_label":
        label = np.array([label > 0, label > 1])
    inputs, masks = {}, {}
    for name, spec in MODALITIES.items():
        values = random.normal(size=(spec.length, spec.features)) + shift
        inputs[name] = values.astype(np.float32)
        masks[name] = np.arange(spec.length) < random.integers(2, spec.length + 1)
    if index % 7 == 3:
        masks["sound"][:] = False
    return {"id": f"example{index}", "inputs": inputs, "masks": masks, "label": label}


def dataset(train=50, valid=20, task="single_label"):
    splits = {
        "train": [example(i, task) for i in range(train)],
        "valid": [example(1000 + i, task) for i in range(valid)],
    }
    info = DatasetInfo(
        modalities=MODALITIES,
        class_names=NAMES[task],
        statistics=compute_statistics(splits["train"]),
        num_examples={name: len(examples) for name, examples in splits.items()},
        task=task,
    )
    return Dataset(info, splits.__getitem__)


def config(**changes):
    """Tiny experiment with changes such as `section__field=value`, or `seed=value`."""
    sections = {
        "data": WatchData(),
        "model": ModelConfig(width=8, num_heads=2, n_pre=0, n_post=1, k=2, dropout=0.1),
        "optim": OptimConfig(lr=1e-2),
        "train": TrainConfig(epochs=2, batch_size=8, log_every_steps=1),
        "mixup": MixupConfig(),
        "mesh": MeshConfig(),
        "system": SystemConfig(),
    }
    for name, value in changes.items():
        if "__" in name:
            section, field = name.split("__")
            sections[section] = dataclasses.replace(sections[section], **{field: value})
    return ExperimentConfig(seed=changes.get("seed", 0), **sections)


def run_command(command, *arguments):
    """Runs a module of `sft_jax.commands` in this process, with flags of its own."""
    values = flags.FlagValues()
    command.define_flags(values)
    positional = values([command.__name__, *arguments])[1:]
    command.main(*([positional] if hasattr(command, "POSITIONAL") else []), values)


def first_state(params, optimizer, *, step=0, ema_params=None):
    """State with these parameters, as training starts from it."""
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        plateau=optim.init_plateau(params),
        ema_params=ema_params,
    )


def _prepare(experiment, data, devices):
    """Dataset, mesh, model with its training step, and evaluator of the validation split."""
    data = data or dataset(task=experiment.model.task)
    data.info.check_task(experiment.model.task)
    mesh = sharding.make_mesh(experiment.mesh, devices)
    assembled = assembly.assemble_model(
        experiment,
        data.info.modalities,
        len(data.info.class_names),
        num_examples=data.info.num_examples["train"],
        mesh=mesh,
    )
    size = experiment.train.batch_size
    return data, mesh, assembled, Evaluator(assembled.model, data.source("valid"), size, mesh)


@functools.lru_cache(maxsize=4)
def _prepared(config_json, devices):
    """The same, compiled once for all runs of a config on the synthetic data."""
    return _prepare(config_io.from_mapping(json.loads(config_json)), None, list(devices))


def run(workdir, experiment, *, data=None, devices=None, wrap=iter, validate=None, extend=False):
    """Trains as train.py does.

    Args:
      workdir: Run directory.
      experiment: Config.
      data: Dataset, by default a synthetic one of the config's task.
      devices: Devices, by default one.
      wrap: Function that may change the batches on their way.
      validate: Function from parameters to metrics, by default the evaluator.
      extend: Whether the run may go on to more epochs.

    Returns:
      The result, and the evaluator of the validation split.
    """
    devices = devices or jax.devices()[:1]
    if data is None:
        # Neither changes a program.
        same = dataclasses.replace(experiment, seed=0, system=SystemConfig())
        same = json.dumps(config_io.to_json(same))
        data, mesh, assembled, evaluator = _prepared(same, tuple(devices))
    else:
        data, mesh, assembled, evaluator = _prepare(experiment, data, devices)
    run = RunDirectory.open(workdir, experiment, extend=extend)
    batches = pipeline.train_iterator(
        data.source("train"),
        experiment.train.batch_size,
        experiment.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    result = loop.fit(
        experiment,
        assembled,
        wrap(batches),
        validate or evaluator,
        compile_validation=(lambda params: None) if validate else evaluator.compile,
        run=run,
        description={"dataset": data.info.to_json()},
        mesh=mesh,
    )
    return result, evaluator


def save_run(workdir, info, experiment=None, **description):
    """A run directory with a checkpoint of normal parameters; training would take longer.

    Returns:
      The state that was saved, whose step is 5.
    """
    experiment = experiment or config()
    RunDirectory.open(workdir, experiment)
    model = build_model(experiment.model, info.modalities, len(info.class_names))
    shapes = state_shapes(
        model,
        optim.make_optimizer(experiment.optim, optax.constant_schedule(0.1)),
        ema=experiment.train.ema_decay > 0,
        mesh=sharding.make_mesh(),
    )
    random = np.random.default_rng(0)
    state = jax.tree.map(
        lambda a: jax.device_put(random.normal(size=a.shape).astype(a.dtype), a.sharding), shapes
    ).replace(step=jax.device_put(jnp.asarray(5, jnp.int32), shapes.step.sharding))
    checkpoints = Checkpoints(workdir)
    checkpoints.save("best", state, {"dataset": info.to_json(), **description})
    checkpoints.close()
    return state


def training_losses(workdir):
    """The losses of training that a run has reported, in order."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def fingerprint(state):
    """A digest of all arrays of a state."""
    leaves = jax.tree.leaves(jax.device_get(state))
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()


def on_one_device(monkeypatch):
    """Makes every mesh one of the first device alone."""
    make = sharding.make_mesh

    def first_alone(config=None, devices=None):
        return make(config or MeshConfig(), jax.devices()[:1])

    monkeypatch.setattr(sharding, "make_mesh", first_alone)


class Killed(Exception):
    """In place of a signal."""


def ending_after(last, note=lambda ids: None):
    """For `wrap` of `run`: raises `Killed` after batch `last`, and notes the ids until then."""

    def look(number, batch, ids):
        if number > last:
            raise Killed
        note(ids)
        return batch, ids

    return lambda batches: Batches(batches, look)


class Batches:
    """An iterator of batches that calls `look(number, batch, ids)`, and yields what it returns."""

    def __init__(self, batches, look):
        self._batches, self._look = batches, look
        self.get_state, self.set_state = batches.get_state, batches.set_state
        self._number = 0

    def __next__(self):
        batch, ids = next(self._batches)
        self._number += 1
        return self._look(self._number, batch, ids)
