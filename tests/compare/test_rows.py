"""Runs are found in folders, and their results are read, or made where they are missing."""

import dataclasses
import json

import numpy as np
import pytest
import synthetic

from sft_jax.compare import __main__ as command
from sft_jax.compare.comparison import ComparisonError, compare
from sft_jax.compare.rows import Request, find, read_row
from sft_jax.evaluation import restored, run
from sft_jax.evaluation.seeds import evaluate_seeds
from sft_jax.profile import measure
from sft_jax.runs.checkpoint import NoCheckpointError
from sft_jax.runs.directory import RunDirectory, RunDirectoryError, SeedsDirectory

INFO = synthetic.dataset().info
CONFIG = dataclasses.replace(synthetic.config(), seeds=(1, 2))


def _config_file(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    return folder


def test_folders_of_runs_are_opened(tmp_path):
    for name in ("k=16", "k=2", "folds/fold_0", "folds/fold_1"):
        _config_file(tmp_path / "sweep" / name)
    alone = _config_file(tmp_path / "alone")
    (tmp_path / "sweep" / "table.csv").touch()
    paths, within = find([alone, tmp_path / "sweep"])
    assert [*paths] == ["alone", "folds", "k=2", "k=16"]
    assert within == ["folds", "k=2", "k=16"]
    # A shell lists the same runs for sweep/*, and files beside them.
    again, within = find(sorted((tmp_path / "sweep").iterdir()))
    assert {*again} == {"folds", "k=2", "k=16"}
    assert within == []
    other = _config_file(tmp_path / "other" / "alone")
    assert [*find([alone, other])[0]] == [str(alone), str(other)]


def test_folders_without_runs_are_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="none: there is no such run directory"):
        find([tmp_path / "none"])
    with pytest.raises(RunDirectoryError, match="is not a run directory, and holds none"):
        find([tmp_path])
    with pytest.raises(RunDirectoryError, match="no run is named"):
        find([])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of two seeds, and a run of one of them with another k, beside one that failed."""
    folder = tmp_path_factory.mktemp("sweep")
    SeedsDirectory.open(folder / "k=2", CONFIG)
    for seed in CONFIG.seeds:
        synthetic.save_run(folder / "k=2" / f"seed_{seed}", INFO, synthetic.config(seed=seed))
    synthetic.save_run(folder / "k=6", INFO, synthetic.config(seed=1, model__k=6))
    RunDirectory.open(folder / "failed", synthetic.config())
    return folder


@pytest.mark.process
def test_the_command_evaluates_compares_and_writes(runs, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(restored, "open_dataset", lambda *_: synthetic.dataset())
    monkeypatch.setattr(measure, "_MIN_SECONDS", 0.0)
    evaluated = []
    predict = restored.Evaluator.predict

    def counted(evaluator, params):
        evaluated.append(evaluator)
        return predict(evaluator, params)

    monkeypatch.setattr(restored.Evaluator, "predict", counted)
    files = [f"--out={tmp_path / 't.csv'}", f"--picture={tmp_path / 't.png'}"]
    synthetic.run_command(command, str(runs), "--split=valid", "--resamples=20", *files)
    output = capsys.readouterr().out
    assert "valid: 20 examples, best checkpoint" in output
    assert "without failed: " in output
    assert "the differences are of seed 1" in output
    assert (tmp_path / "t.csv").exists()
    assert (tmp_path / "t.png").exists()
    # Three runs, and one model for both seeds.
    assert (len(evaluated), len({*map(id, evaluated)})) == (3, 2)

    result = compare([runs], request=Request("valid"), resamples=20)
    assert len(evaluated) == 3
    first, second = result.lines
    assert first.milliseconds > 0
    seeds = evaluate_seeds(runs / "k=2", "valid", "best")
    assert [*first.values] == seeds["metrics"]["accuracy"]["values"]
    assert first.mean == seeds["metrics"]["accuracy"]["mean"]
    assert second.difference.mean == second.values[0] - first.values[0]
    assert second.difference.examples is not None

    # Without the data, the results that are there are compared.
    for path in runs.rglob("*_predictions.npz"):
        path.unlink()
    monkeypatch.setattr(restored, "open_dataset", _missing)
    again = compare([runs], request=Request("valid"), measure=False)
    assert [line.values for line in again.lines] == [first.values, second.values]
    assert again.lines[1].difference.examples is None
    with pytest.raises(RunDirectoryError, match=r"the data of .* can't be opened"):
        compare([runs], request=Request("train"), measure=False)


def _missing(*_):
    raise FileNotFoundError("no raw files")


@pytest.mark.process
def test_runs_without_a_result_name_the_command(runs):
    request = Request("train", evaluate=False)
    with pytest.raises(RunDirectoryError) as error:
        read_row("k=2", runs / "k=2", request)
    assert f"python eval.py --workdir={runs / 'k=2'} --split=train --checkpoint=best" in str(
        error.value
    )
    with pytest.raises(NoCheckpointError, match="failed: "):
        compare([runs / "failed"], request=request)
    broken = runs.parent / "broken"
    RunDirectory.open(broken / "one", synthetic.config())
    with pytest.raises(ComparisonError, match="no run has a checkpoint"):
        compare([broken], request=request)


@pytest.mark.process
def test_a_result_of_another_step_is_made_anew(runs, monkeypatch):
    monkeypatch.setattr(restored, "open_dataset", lambda *_: synthetic.dataset())
    result, _ = run.evaluate_run(runs / "k=6", "train", "best")
    file = runs / "k=6" / "eval" / "train.json"
    file.write_text(json.dumps(result | {"step": 4, "accuracy": 0.0}))
    with pytest.raises(RunDirectoryError, match="has no result of step 5 on the split train"):
        read_row("k=6", runs / "k=6", Request("train", evaluate=False))
    row = read_row("k=6", runs / "k=6", Request("train"))
    (unit,) = row.units.values()
    assert unit.result["accuracy"] == result["accuracy"]
    assert not unit.done
    again = read_row("k=6", runs / "k=6", Request("train", evaluate=False)).units["", 1]
    for name in ("ids", "labels", "logits", "loss"):
        np.testing.assert_array_equal(
            getattr(again.predictions, name), getattr(unit.predictions, name)
        )
    assert again.predictions.task == "single_label"
