"""Unequal classes: weights, draws and the metric that selects, and exact resumption with all."""

import functools
import json

import chex
import jax
import pytest
import synthetic

from sft_jax import experiment
from sft_jax.runs.checkpoint import Checkpoints

pytestmark = pytest.mark.process


def test_a_weighted_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    data = synthetic.dataset()
    config = synthetic.config(
        train__class_weights={"low": 2.0},
        train__sampling="balanced",
        train__best_metric="macro_f1",
        train__batch_size=16,
    )
    assemble = functools.cache(lambda: experiment_assemble(config, data, own=True))
    experiment_assemble = experiment._assemble
    monkeypatch.setattr(experiment, "_assemble", lambda *_, **__: assemble())  # Compiles once.
    unbroken = experiment.train(config, tmp_path / "unbroken", data)
    validate, evaluated = experiment.Validation.__call__, []

    def interrupted(validation, params):
        if evaluated:
            raise KeyboardInterrupt
        evaluated.append(validate(validation, params))
        return evaluated[0]

    with monkeypatch.context() as patch:
        patch.setattr(experiment.Validation, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            experiment.train(config, tmp_path / "broken", data)
    resumed = experiment.train(config, tmp_path / "broken", data)
    assert resumed.state.step == 7
    states = (jax.device_get(result.state) for result in (unbroken, resumed))
    chex.assert_trees_all_equal(*states)
    assert resumed.best_value == unbroken.best_value
    text = (tmp_path / "broken" / "metrics.jsonl").read_text()
    values = [line.get("valid/macro_f1") for line in map(json.loads, text.splitlines())]
    assert unbroken.best_value == max(filter(None, values))
    weights = Checkpoints(tmp_path / "broken").description("best")["class_weights"]
    assert weights == {"low": 2, "middle": 1, "high": 1}
