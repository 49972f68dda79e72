import dataclasses
import itertools
import json
import re

import chex
import jax
import numpy as np
import pytest
import synthetic
from sparing import slow_but
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sft_jax.runs.checkpoint import Checkpoints, NoCheckpointError
from sft_jax.training.loop import NonFiniteError

pytestmark = pytest.mark.process


def lines(workdir):
    read = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in read:
        if "train/loss" in line:
            assert 0 <= line.pop("train/input_wait") <= 1  # Time differs from run to run.
    return read


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run without dropout, on one device and without accumulation."""
    workdir = tmp_path_factory.mktemp("plain")
    return workdir, *synthetic.run(workdir, synthetic.config(**PLAIN))


PLAIN = {"model__dropout": 0.0, "train__epochs": 6, "train__batch_size": 16}


def test_training_learns_and_compiles_once(plain):
    workdir, result, evaluator = plain
    assert (result.train_compiles, evaluator.compiles) == (1, 1)
    assert result.state.step == 19
    losses = [line["valid/loss"] for line in lines(workdir) if "valid/loss" in line]
    assert len(losses) == 6
    assert losses[-1] < 0.8 * np.log(3) < losses[0]
    assert result.best_value == min(losses)


def test_tensorboard_holds_what_the_json_lines_hold(plain):
    workdir, _, _ = plain
    events = EventAccumulator(str(workdir / "tensorboard")).Reload()
    written = lines(workdir)
    names = {name for line in written for name in line} - {"step"}
    assert names | {"train/input_wait"} == set(events.Tags()["scalars"])
    assert "train/learning_rate" in names
    for name in names:
        expected = [(line["step"], np.float32(line[name])) for line in written if name in line]
        assert [(e.step, e.value) for e in events.Scalars(name)] == expected


@pytest.mark.parametrize(("devices", "accumulate"), slow_but([(8, 1), (4, 2)], (4, 2)))
def test_devices_and_accumulation_do_not_change_training(plain, tmp_path, devices, accumulate):
    experiment = synthetic.config(**PLAIN, train__accumulate=accumulate)
    result, evaluator = synthetic.run(tmp_path, experiment, devices=jax.devices()[:devices])
    assert (result.train_compiles, evaluator.compiles) == (1, 1)
    for a, b in zip(lines(plain[0]), lines(tmp_path), strict=True):
        chex.assert_trees_all_close(a, b, rtol=1e-5, atol=1e-5)


def spoil(spoilt, change, seen=None):
    """Changes one batch on its way; `seen` collects the ids of all."""

    def look(number, batch, ids):
        if seen is not None:
            seen.append(list(ids))
        return (change(batch) if number == spoilt else batch), ids

    return lambda batches: synthetic.Batches(batches, look)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    def one_example_of_nan(batch):
        sight = np.where(np.arange(8)[:, None, None] == 5, np.nan, batch.inputs["sight"])
        return batch.replace(inputs={**batch.inputs, "sight": sight.astype(np.float32)})

    seen = []
    with pytest.raises(NonFiniteError) as error:
        synthetic.run(tmp_path, synthetic.config(), wrap=spoil(3, one_example_of_nan, seen))
    message = str(error.value)
    assert f"step 3: not finite: loss of examples {seen[2][5]};" in message
    assert re.findall(r"example\d+", message) == [seen[2][5]]
    assert "head" in message
    assert Checkpoints(tmp_path).steps("latest") == []


def test_a_gradient_that_is_not_finite_names_its_group(tmp_path):
    def huge(batch):
        # Finite all the way to the loss, but the gradient of the projection overflows.
        inputs = {**batch.inputs, "sight": np.full_like(batch.inputs["sight"], 3e38)}
        return batch.replace(inputs=inputs)

    with pytest.raises(NonFiniteError, match=r"step 2: .*tokenizer_sight"):
        synthetic.run(tmp_path, synthetic.config(), wrap=spoil(2, huge))


def test_latest_rotates_and_best_is_kept_apart(tmp_path):
    values = iter([0.5, 0.9, float("nan"), 0.7])
    experiment = synthetic.config(
        train__epochs=4, train__best_metric="accuracy", train__keep_latest=2
    )
    result, _ = synthetic.run(
        tmp_path, experiment, validate=lambda _: {"loss": 1.0, "accuracy": next(values)}
    )
    assert (result.best_step, result.best_value) == (13, 0.9)
    checkpoints = Checkpoints(tmp_path, keep_latest=2)
    assert checkpoints.steps("latest") == [19, 25]
    assert checkpoints.steps("best") == [13]
    assert checkpoints.description("best")["metrics"]["accuracy"] == 0.9
    assert checkpoints.description("25")["dataset"]["class_names"] == list(synthetic.CLASSES)
    restored, description = checkpoints.restore("19", result.state)
    assert restored.step == 19
    assert description["config"]["train"]["batch_size"] == 8
    with pytest.raises(NoCheckpointError, match=r"'7'.* latest \[19, 25\] and best \[13\]"):
        checkpoints.restore("7", result.state)


def test_patience_ends_training_after_a_restart_too(tmp_path, capfd):
    experiment = synthetic.config(
        train__epochs=4, train__best_metric="kappa", train__patience=2, model__task="ordinal"
    )

    def start(values, wrap=iter):
        name = "quadratic_weighted_kappa"
        validate = [{"loss": 1.0, "accuracy": 0.0, name: value} for value in values]
        return synthetic.run(tmp_path, experiment, validate=lambda _: validate.pop(0), wrap=wrap)[0]

    # Evaluated after steps 7, 13 and 19; the last after a restart.
    with pytest.raises(synthetic.Killed):
        start([0.5, 0.4], synthetic.ending_after(15))
    result = start([0.5])
    assert (result.state.step, result.best_step, result.best_value) == (19, 7, 0.5)
    assert "ending early at step 19 of 25" in capfd.readouterr().out
    again = start([])
    assert again.state.step == 19
    chex.assert_trees_all_equal(jax.device_get(again.state), jax.device_get(result.state))


def test_nothing_is_best_where_every_metric_is_nan(tmp_path):
    nan = float("nan")
    result, _ = synthetic.run(
        tmp_path,
        synthetic.config(),
        validate=lambda _: {"loss": nan, "accuracy": nan},
    )
    assert result.best_step is None
    with pytest.raises(NoCheckpointError, match="'best'"):
        Checkpoints(tmp_path).description("best")


def test_a_plateau_lowers_the_learning_rate(tmp_path):
    losses = itertools.chain([2.0, 1.0], itertools.repeat(1.0))
    experiment = synthetic.config(
        train__epochs=4,
        optim__schedule="plateau",
        optim__plateau_patience=1,
        optim__warmup_epochs=0.0,
    )
    synthetic.run(tmp_path, experiment, validate=lambda _: {"loss": next(losses), "accuracy": 0.0})
    rates = [line["train/learning_rate"] for line in lines(tmp_path) if "train/loss" in line]
    # Evaluated after steps 7, 13, 19 and 25; the third loss was no lower than the second.
    np.testing.assert_allclose(rates, [1e-2] * 19 + [1e-3] * 6, rtol=1e-6)


def test_the_running_mean_is_evaluated(tmp_path):
    evaluated = []
    result, _ = synthetic.run(
        tmp_path,
        synthetic.config(train__epochs=1, train__ema_decay=0.9),
        validate=lambda params: evaluated.append(jax.device_get(params)) or {"loss": 1.0},
    )
    chex.assert_trees_all_equal(evaluated[-1], jax.device_get(result.state.ema_params))
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(evaluated[-1], jax.device_get(result.state.params), rtol=1e-3)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("train", {"batch_size": 12}, "multiple of train.accumulate=1 x 8 devices = 8"),
        ("optim", {"name": "adamm"}, "'adamm' is not an optimiser of optax"),
        ("optim", {"options": {"weight_decay": 0.1}}, "set optim.weight_decay"),
        ("optim", {"options": {"beta": 1}}, r"optax.adamw takes no \['beta'\]; it takes"),
        ("optim", {"warmup_epochs": 3.0}, "warm-up"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, section, changes, message):
    experiment = synthetic.config()
    part = dataclasses.replace(getattr(experiment, section), **changes)
    experiment = dataclasses.replace(experiment, **{section: part})
    with pytest.raises(ValueError, match=message):
        synthetic.run(tmp_path, experiment, devices=jax.devices())


def test_the_steps_of_the_config_are_traced(tmp_path):
    experiment = synthetic.config(system__trace_from=3, system__trace_steps=2)
    synthetic.run(tmp_path, experiment)
    (trace,) = (tmp_path / "trace").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000
