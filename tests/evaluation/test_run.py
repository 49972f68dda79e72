"""Evaluation of a run with any of its modalities, by the functions and by eval.py."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import scipy.special
import synthetic
from sklearn import metrics

from sft_jax.commands import evaluate
from sft_jax.data.arrays import from_arrays
from sft_jax.evaluation import own_data, restored, run
from sft_jax.runs.directory import RunDirectory, RunDirectoryError
from sft_jax.runs.storage import write_json


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run directory with a checkpoint of normal parameters; training would take longer."""
    workdir = tmp_path_factory.mktemp("run")
    synthetic.save_run(workdir, synthetic.dataset().info)
    return workdir


@pytest.fixture(autouse=True)
def _dataset(monkeypatch):
    monkeypatch.setattr(restored, "open_dataset", lambda *_: synthetic.dataset())


def _eval(*arguments):
    synthetic.run_command(evaluate, "--report=false", *arguments)


def _results(workdir):
    return {p.name: json.loads(p.read_text()) for p in (workdir / "eval").glob("*.json")}


def test_results_of_some_modalities_have_their_own_files(trained, capsys):
    result, predictions = run.evaluate_run(trained, "valid", "best")
    alone, other = run.evaluate_run(trained, "valid", "best", ["sound"])
    assert (result["modalities"], result["left_out"]) == (["sight", "sound"], [])
    assert (alone["modalities"], alone["left_out"]) == (["sound"], ["sight"])
    assert np.abs(predictions.logits - other.logits).max() > 0.01
    assert _results(trained) == {"valid.json": result, "valid-sound.json": alone}
    pictures = sorted(path.name for path in (trained / "eval").glob("*.png"))
    kinds = ("confusion_matrix", "reliability")
    assert pictures == [f"{n}_{kind}.png" for n in ("valid-sound", "valid") for kind in kinds]

    _eval(f"--workdir={trained}", "--split=valid", "--every_subset")
    table = _results(trained)["valid_subsets.json"]
    assert (trained / "eval" / "valid_subsets.png").exists()
    output = capsys.readouterr().out
    assert f"results: {trained}/eval/valid_subsets.json" in output
    assert all(f"{row['accuracy']:.4f}" in output for row in table["subsets"])
    assert (table["step"], table["n_examples"], table["score"]) == (result["step"], 20, "accuracy")
    assert table["parameters"] == result["parameters"] == "trained"
    both, sight, sound = table["subsets"]
    assert sight["modalities"] == ["sight"]
    for row, expected in ((both, result), (sound, alone)):
        assert row["modalities"] == expected["modalities"]
        assert row["accuracy"] == pytest.approx(expected["accuracy"])
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-6)


def test_eval_reports_the_metrics_that_the_dataset_requests(tmp_path, monkeypatch, capsys):
    # Of the seven classes the data has the first three, and no batch is of 20 examples.
    names = ("-3", "-2", "-1", "0", "1", "2", "[3]")
    data = synthetic.dataset()
    data.info = dataclasses.replace(data.info, class_names=names)
    synthetic.save_run(tmp_path, data.info)
    # The requested metrics may change after training, unlike the data.
    data.info = dataclasses.replace(data.info, metrics=("ranking", "sentiment"))
    monkeypatch.setattr(restored, "open_dataset", lambda *_: data)
    seen = []
    monkeypatch.setattr(run.plots, "draw", lambda *args: seen.append(args[-1]))
    _eval(f"--workdir={tmp_path}", "--split=valid")
    result, output = _results(tmp_path)["valid.json"], capsys.readouterr().out

    examples = len(data.source("valid"))
    assert result["n_examples"] == data.info.num_examples["valid"] == examples == 20
    assert np.sum(result["confusion_matrix"]) == examples
    (predictions,) = seen
    labels = predictions.labels
    probabilities = scipy.special.softmax(predictions.logits.astype(np.float64), axis=1)
    assert len(labels) == len(probabilities) == examples
    ranked = np.argsort(-probabilities, axis=1)
    assert result["ranking"]["top1"] == np.mean(ranked[:, 0] == labels) == result["accuracy"]
    assert result["ranking"]["top5"] == np.mean((ranked[:, :5] == labels[:, None]).any(axis=1))
    areas = [metrics.roc_auc_score(labels == i, probabilities[:, i]) for i in range(3)]
    assert result["ranking"]["mAUC"] == pytest.approx(np.mean(areas))
    assert result["ranking"]["absent_classes"] == [*names[3:]]
    assert result["sentiment"]["truth"] == "rounded"
    assert result["sentiment"]["n_non0"] == examples
    upper, lower = probabilities[:, 4:].sum(axis=1), probabilities[:, :3].sum(axis=1)
    assert result["sentiment"]["acc2_non0"] == np.mean(lower >= upper)
    errors = np.abs(probabilities @ np.arange(-3, 4) - (labels - 3))
    assert result["sentiment"]["mae"] == pytest.approx(errors.mean())
    assert f"valid: {examples} examples" in output
    for family in ("ranking", "sentiment"):
        for name, value in result[family].items():
            if isinstance(value, float):
                assert f"{name} " in output
                assert f"{value:.4f}" in output
    assert "0, 1, 2, [3]" in output


def test_eval_takes_modalities_in_any_order(trained, capsys):
    _eval(f"--workdir={trained}", "--split=valid", "--modalities=sound, sight")
    output = capsys.readouterr().out
    assert f"results: {trained}/eval/valid.json" in output
    assert "alone" not in output
    _eval(f"--workdir={trained}", "--split=valid", "--modalities=sight")
    output = capsys.readouterr().out
    assert f"results: {trained}/eval/valid-sight.json" in output
    assert ", sight alone" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modalities=sight,smell"], "modalities: unknown 'smell'; allowed are sight, sound"),
        (["--modalities="], "modalities: at least one must be named; allowed are sight, sound"),
        (["--every_subset", "--modalities=sight"], "--every_subset goes with neither"),
        (["--every_subset", "--predictions=p.csv"], "--every_subset goes with neither"),
    ],
)
def test_wrong_flags(trained, arguments, message):
    with pytest.raises(ValueError, match=message):
        _eval(f"--workdir={trained}", "--split=valid", *arguments)


@pytest.mark.slow
def test_the_data_card_of_a_run_is_shown(tmp_path, capsys):
    info = synthetic.dataset().info
    synthetic.save_run(tmp_path, info)
    _eval(f"--workdir={tmp_path}", "--split=valid")  # Old runs have none.
    assert "data: " not in capsys.readouterr().out
    labels = {split: np.zeros(3, int) for split in ("train", "valid")}
    inputs = {split: {"x": np.full((3, 2, 2), np.nan)} for split in labels}
    card = from_arrays(inputs, labels, ("no", "yes"), not_finite="zero").card
    write_json(tmp_path / "data_card.json", card.to_json())
    for option in ("--every_subset", "--noevery_subset"):
        _eval(f"--workdir={tmp_path}", "--split=valid", option)
        output = capsys.readouterr().out
        assert "data: arrays, arrays: 3 train, 3 valid examples, 4 warnings" in output
        assert "train: x holds 12 nan; policy: zero" in output
        assert f"all of them: python -m sft_jax.data inspect {tmp_path}/data_card.json" in output
    (tmp_path / "data_card.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no data card"):
        _eval(f"--workdir={tmp_path}", "--split=valid")


def test_a_run_on_its_own_dataset_needs_a_dataset(trained, tmp_path):
    info = synthetic.dataset().info
    shifted = {
        name: dataclasses.replace(moments, mean=tuple(m + 1 for m in moments.mean))
        for name, moments in info.statistics.items()
    }
    synthetic.save_run(tmp_path, info, own_dataset=True)
    with pytest.raises(RunDirectoryError, match="that its config does not name"):
        run.evaluate_run(tmp_path, "valid", "best")
    own = synthetic.dataset(valid=9)
    own.info = dataclasses.replace(own.info, statistics=shifted)
    result, predictions = run.evaluate_run(str(tmp_path), "valid", "best", dataset=own)
    assert result["n_examples"] == 9
    # By the statistics of the run, not by those of what it is evaluated on.
    _, expected = run.evaluate_run(trained, "valid", "best")
    np.testing.assert_allclose(predictions.logits, expected.logits[:9], rtol=1e-5, atol=1e-5)
    table = run.evaluate_every_subset(str(tmp_path), "valid", "best", dataset=own)
    assert table["n_examples"] == 9
    assert table["subsets"][0]["loss"] == pytest.approx(result["loss"], rel=1e-6)


def test_other_results_never_replace_those_of_the_run(tmp_path, monkeypatch):
    own, other = synthetic.dataset(), synthetic.dataset(valid=9)
    synthetic.save_run(tmp_path, own.info, own_dataset=True)
    fingerprints = {split: own.fingerprint(split) for split in own.info.num_examples}
    write_json(tmp_path / "dataset.json", {"fingerprints": fingerprints})
    first, _ = run.evaluate_run(tmp_path, "valid", "best", dataset=own)
    assert first["data"] == "own"
    kept = {path.name: path.read_bytes() for path in (tmp_path / "eval").iterdir()}
    assert sorted(kept) == ["valid.json", "valid_confusion_matrix.png", "valid_reliability.png"]
    result, _ = run.evaluate_run(tmp_path, "valid", "best", dataset=other)
    by_number, _ = run.evaluate_run(tmp_path, "valid", "5", dataset=own)
    table = run.evaluate_every_subset(tmp_path, "valid", "best", dataset=other)
    assert {path: (tmp_path / "eval" / path).read_bytes() for path in kept} == kept
    digest = other.fingerprint("valid")
    assert result["data"] == table["data"] == digest
    results = _results(tmp_path)
    assert results[f"valid+{digest[:12]}.json"] == result
    assert results["valid@5.json"] == by_number == {**first, "checkpoint": "5"}
    assert results[f"valid+{digest[:12]}_subsets.json"] == table
    assert (tmp_path / "eval" / f"valid+{digest[:12]}_confusion_matrix.png").exists()
    # A dataset given to a run whose config names its data is another. For a run that kept no
    # fingerprints, everything else that is known has to be equal.
    mine, old = RunDirectory(tmp_path), RunDirectory(tmp_path / "old")
    assert own_data.fingerprints(mine, {"own_dataset": False}, equal=True) == {}
    assert own_data.fingerprints(mine, {"own_dataset": True}, equal=True) == fingerprints
    for equal, expected in ((True, None), (False, {})):
        assert own_data.fingerprints(old, {"own_dataset": True}, equal) == expected


def test_moved_data_is_found_by_its_present_folder(tmp_path, monkeypatch, capsys):
    requests, now = [], tmp_path / "now"
    now.mkdir()

    def gone(config, statistics, prepared):
        requests.append((config, prepared))
        if config.data_dir != str(now):
            raise FileNotFoundError("no such folder")
        return synthetic.dataset()

    monkeypatch.setattr(restored, "open_dataset", gone)
    synthetic.save_run(tmp_path, synthetic.dataset().info, prepared={"data_dir": "/then"})
    with pytest.raises(RunDirectoryError) as error:
        run.evaluate_run(tmp_path, "valid", "best")
    for part in (f"data of {tmp_path}", "no such folder", "--data_dir=FOLDER", "data_folders"):
        assert part in str(error.value)
    _eval(f"--workdir={tmp_path}", "--split=valid", f"--data_dir={now}")
    moved = dataclasses.replace(requests[0][0], data_dir=str(now))
    assert requests[-1] == (moved, {"data_dir": "/then"})
    with pytest.raises(ValueError, match="watch has no manual_dir; allowed are data_dir"):
        run.evaluate_run(tmp_path, "valid", "best", data_folders={"manual_dir": str(now)})
    with pytest.raises(ValueError, match="--data_dir=/nowhere: there is no such folder"):
        _eval(f"--workdir={tmp_path}", "--split=valid", "--data_dir=/nowhere")


def test_numbers_come_first_and_files_are_checked_before(trained, tmp_path, monkeypatch, capsys):
    file = tmp_path / "new" / "folder" / "p.csv"

    def killed(*_):
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(run.plots, "draw_confusion_matrix", killed)
        with pytest.raises(SystemExit, match="killed"):
            _eval(f"--workdir={trained}", "--split=train", f"--predictions={file}")
    assert "accuracy" in capsys.readouterr().out
    assert len(file.read_text().splitlines()) == 51
    assert "train.json" in _results(trained)
    (tmp_path / "file").touch()
    monkeypatch.setattr(run, "restore", None)
    for wrong in (tmp_path / "file" / "p.csv", tmp_path):
        with pytest.raises(OSError, match=f"^can't write to {wrong}"):
            _eval(f"--workdir={trained}", "--split=train", f"--predictions={wrong}")


def test_outputs_that_are_not_finite_name_the_checkpoint(trained, monkeypatch):
    restore = run.restore

    def damaged(*args, **options):
        checkpoint = restore(*args, **options)
        params = jax.tree.map(lambda a: a * np.nan, checkpoint.params)
        return dataclasses.replace(checkpoint, params=params)

    monkeypatch.setattr(run, "restore", damaged)
    message = r"run\d+, best checkpoint, step \d+: logits: NaN or infinite for 20 of 20 examples"
    for function in (run.evaluate_run, run.evaluate_every_subset):
        with pytest.raises(ArithmeticError, match=message):
            function(trained, "valid", "best")


def test_changed_data_is_named(trained, monkeypatch):
    monkeypatch.setattr(restored, "open_dataset", lambda *_: synthetic.dataset(valid=9))
    message = "num_examples was {'train': 50, 'valid': 20}, is {'train': 50, 'valid': 9}$"
    with pytest.raises(RunDirectoryError, match=message):
        run.evaluate_run(trained, "valid", "best")
