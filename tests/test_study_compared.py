"""Rows of the study are compared with kept predictions of SFT and of CLS alone."""

import dataclasses
import types

import numpy as np
import pytest
import synthetic

from benchmarks.study import compared
from benchmarks.study.sets import CLS_ALONE, SETS, SFT
from sft_jax.compare.differences import difference
from sft_jax.evaluation.evaluator import Predictions


def _units(seeds, random, examples=40):
    """Runs of a row, and JSON values with their accuracies."""
    labels, units = np.arange(examples) % 3, {}
    for seed in seeds:
        logits = random.normal(size=(examples, 3)).astype(np.float32)
        own = Predictions(np.arange(examples), labels, logits, np.zeros(examples))
        found = {"accuracy": float((logits.argmax(1) == labels).mean()), "n_examples": examples}
        units["", seed] = types.SimpleNamespace(result=found, predictions=own)
    return units, {
        "test": {"accuracy": {"values": [unit.result["accuracy"] for unit in units.values()]}},
        "n_examples": [examples] * len(units),
    }


def test_rows_of_another_machine_are_compared_with_kept_predictions(monkeypatch, tmp_path):
    random, info = np.random.default_rng(0), synthetic.dataset().info
    info = dataclasses.replace(info, class_names=("a", "b", "c"), metrics=())
    made = {name: _units((0, 1), random) for name in (SFT, CLS_ALONE, "mbt", "late")}
    trained = {
        name: types.SimpleNamespace(name=name, units=units, info=info)
        for name, (units, _) in made.items()
    }
    monkeypatch.setattr(compared.rows, "tested", lambda folder, own: trained[folder.name])
    monkeypatch.setattr(compared.counts, "add", lambda own, row: None)
    result = {"metric": "accuracy", "seeds": [0, 1], "rows": {}}
    one, file = SETS["watch"], tmp_path / "study_watch.npz"
    folders = {name: tmp_path / name for name in made}

    def compare(*names, here):
        result["rows"] = {name: result["rows"].get(name, made[name][1]) for name in names}
        for name, folder in folders.items():
            if name in here:
                folder.mkdir(exist_ok=True)
            elif folder.exists():
                folder.rmdir()
        compared.compare(one, result, folders, file)
        return {name: dict(row["differences"]) for name, row in result["rows"].items()}

    both = compare(SFT, CLS_ALONE, "mbt", "late", here=made)
    later = compare(SFT, CLS_ALONE, "mbt", "late", here=("late",))
    assert later == both
    assert later["mbt"].keys() == {SFT, CLS_ALONE}
    exact = difference(trained["mbt"], trained[SFT], "accuracy", 0.95, 10)
    assert later["mbt"][SFT]["mean"] == exact.mean
    made[SFT] = _units((0, 1), random)
    trained[SFT].units, result["rows"][SFT] = made[SFT]
    again = compare(SFT, CLS_ALONE, "mbt", "late", here=(SFT, "late"))
    assert again["mbt"] == {CLS_ALONE: both["mbt"][CLS_ALONE]}
    assert again["late"].keys() == {SFT, CLS_ALONE}
    assert again["late"][SFT] != both["late"][SFT]
    left_behind = trained["late"].units.pop(("", 1))
    with pytest.raises(ValueError, match="holds other runs than those of the row 'late': remove"):
        compare(SFT, CLS_ALONE, "late", here=("late",))
    trained["late"].units["", 1] = left_behind
    file.unlink()
    with pytest.raises(ValueError, match="lacks the predictions of the row 'sft': bring the file"):
        compare(SFT, CLS_ALONE, here=())
