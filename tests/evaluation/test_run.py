"""A run is evaluated with any of its modalities, by the functions and by eval.py."""

import dataclasses
import json
import pathlib
import runpy

import jax
import numpy as np
import optax
import pytest
import scipy.special
import synthetic
from absl import flags
from absl.testing import flagsaver
from sklearn import metrics

from sft_jax.data.arrays import from_arrays
from sft_jax.evaluation import own_data, run
from sft_jax.modules.factory import build_model
from sft_jax.parallel import sharding
from sft_jax.runs import directory
from sft_jax.runs.checkpoint import Checkpoints
from sft_jax.training import optim
from sft_jax.training.state import compile_create_state

EVAL = pathlib.Path(__file__).parents[2] / "eval.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run directory with a checkpoint of normal parameters; training would take longer."""
    workdir = tmp_path_factory.mktemp("run")
    _save_normal(workdir, synthetic.dataset().info)
    return workdir


def _save_normal(workdir, info, **description):
    experiment = synthetic.config()
    directory.prepare(workdir, experiment)
    model = build_model(experiment.model, info.modalities, len(info.class_names))
    _, state = compile_create_state(
        model,
        optim.make_optimizer(experiment.optim, optax.constant_schedule(0.1)),
        optim.make_plateau(experiment.optim),
        ema=False,
        mesh=sharding.make_mesh(),
    )
    random = np.random.default_rng(0)
    values = jax.tree.map(
        lambda a: jax.device_put(random.normal(size=a.shape).astype(a.dtype), a.sharding), state
    )
    checkpoints = Checkpoints(workdir)
    checkpoints.save("best", values, {"dataset": info.to_json(), **description})
    checkpoints.close()


@pytest.fixture(autouse=True)
def _dataset(monkeypatch):
    monkeypatch.setattr(run, "open_dataset", lambda *_: synthetic.dataset())


def _eval(*arguments):
    with flagsaver.flagsaver():
        program = runpy.run_path(str(EVAL))
        flags.FLAGS(["eval.py", *arguments])
        program["main"]()


def _results(workdir):
    return {p.name: json.loads(p.read_text()) for p in (workdir / "eval").glob("*.json")}


def test_what_is_left_out_makes_a_difference_and_has_its_own_files(trained, capsys):
    result, predictions = run.evaluate_run(trained, "valid", "best")
    alone, other = run.evaluate_run(trained, "valid", "best", ["sound"])
    assert (result["modalities"], result["left_out"]) == (["sight", "sound"], [])
    assert (alone["modalities"], alone["left_out"]) == (["sound"], ["sight"])
    assert np.abs(predictions.logits - other.logits).max() > 0.01
    assert _results(trained) == {"valid.json": result, "valid-sound.json": alone}
    pictures = sorted(path.name for path in (trained / "eval").glob("*.png"))
    assert pictures == ["valid-sound_confusion_matrix.png", "valid_confusion_matrix.png"]

    _eval(f"--workdir={trained}", "--split=valid", "--every_subset")
    table = _results(trained)["valid_subsets.json"]
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


def test_eval_writes_and_prints_the_metrics_that_the_dataset_asks_for(
    tmp_path, monkeypatch, capsys
):
    # Of the seven classes the data has the first three, and no batch is of 20 examples.
    names = ("-3", "-2", "-1", "0", "1", "2", "[3]")
    data = synthetic.dataset()
    data.info = dataclasses.replace(data.info, class_names=names)
    _save_normal(tmp_path, data.info)
    # What is asked for may change after training, unlike the data.
    data.info = dataclasses.replace(data.info, metrics=("ranking", "sentiment"))
    monkeypatch.setattr(run, "open_dataset", lambda *_: data)
    seen = []
    monkeypatch.setattr(run.plots, "draw", lambda *given: seen.append(given[-1]))
    _eval(f"--workdir={tmp_path}", "--split=valid")
    found, output = _results(tmp_path)["valid.json"], capsys.readouterr().out

    examples = len(data.source("valid"))
    assert found["n_examples"] == data.info.num_examples["valid"] == examples == 20
    assert np.sum(found["confusion_matrix"]) == examples
    (predictions,) = seen
    labels = predictions.labels
    probabilities = scipy.special.softmax(predictions.logits.astype(np.float64), axis=1)
    assert len(labels) == len(probabilities) == examples
    ranked = np.argsort(-probabilities, axis=1)
    assert found["ranking"]["top1"] == np.mean(ranked[:, 0] == labels) == found["accuracy"]
    assert found["ranking"]["top5"] == np.mean((ranked[:, :5] == labels[:, None]).any(axis=1))
    areas = [metrics.roc_auc_score(labels == i, probabilities[:, i]) for i in range(3)]
    assert found["ranking"]["mAUC"] == pytest.approx(np.mean(areas))
    assert found["ranking"]["absent_classes"] == [*names[3:]]
    assert found["sentiment"]["truth"] == "rounded"
    assert found["sentiment"]["n_non0"] == examples
    upper, lower = probabilities[:, 4:].sum(axis=1), probabilities[:, :3].sum(axis=1)
    assert found["sentiment"]["acc2_non0"] == np.mean(lower >= upper)
    errors = np.abs(probabilities @ np.arange(-3, 4) - (labels - 3))
    assert found["sentiment"]["mae"] == pytest.approx(errors.mean())
    assert f"valid: {examples} examples" in output
    for family in ("ranking", "sentiment"):
        for name, value in found[family].items():
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
def test_the_card_of_the_data_is_shown_if_the_run_has_one(tmp_path, capsys):
    info = synthetic.dataset().info
    _save_normal(tmp_path, info)
    _eval(f"--workdir={tmp_path}", "--split=valid")  # As runs were once, without.
    assert "data: " not in capsys.readouterr().out
    labels = {split: np.zeros(3, int) for split in ("train", "valid")}
    inputs = {split: {"x": np.full((3, 2, 2), np.nan)} for split in labels}
    card = from_arrays(inputs, labels, ("no", "yes"), not_finite="zero").card
    directory.write_json(tmp_path / "data_card.json", card.to_json())
    for option in ("--every_subset", "--noevery_subset"):
        _eval(f"--workdir={tmp_path}", "--split=valid", option)
        output = capsys.readouterr().out
        assert "data: arrays, arrays: 3 train, 3 valid examples, 4 warnings" in output
        assert "train: x holds 12 nan; policy: zero" in output
        assert f"all of them: python -m sft_jax.data inspect {tmp_path}/data_card.json" in output
    (tmp_path / "data_card.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no data card"):
        _eval(f"--workdir={tmp_path}", "--split=valid")


def test_a_run_on_a_dataset_of_its_own_is_evaluated_on_a_given_one(trained, tmp_path):
    info = synthetic.dataset().info
    shifted = {
        name: dataclasses.replace(of, mean=tuple(m + 1 for m in of.mean))
        for name, of in info.statistics.items()
    }
    _save_normal(tmp_path, info, own_dataset=True)
    with pytest.raises(directory.RunDirectoryError, match="that its config does not name"):
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


def test_results_of_other_things_never_replace_the_runs_own(tmp_path, monkeypatch):
    own, other = synthetic.dataset(), synthetic.dataset(valid=9)
    _save_normal(tmp_path, own.info, own_dataset=True)
    fingerprints = {split: own.fingerprint(split) for split in own.info.num_examples}
    directory.write_json(tmp_path / "dataset.json", {"fingerprints": fingerprints})
    first, _ = run.evaluate_run(tmp_path, "valid", "best", dataset=own)
    assert first["data"] == "own"
    kept = {path.name: path.read_bytes() for path in (tmp_path / "eval").iterdir()}
    assert sorted(kept) == ["valid.json", "valid_confusion_matrix.png"]
    result, _ = run.evaluate_run(tmp_path, "valid", "best", dataset=other)
    by_number, _ = run.evaluate_run(tmp_path, "valid", "0", dataset=own)
    table = run.evaluate_every_subset(tmp_path, "valid", "best", dataset=other)
    assert {path: (tmp_path / "eval" / path).read_bytes() for path in kept} == kept
    digest = other.fingerprint("valid")
    assert result["data"] == table["data"] == digest
    found = _results(tmp_path)
    assert found[f"valid+{digest[:12]}.json"] == result
    assert found["valid@0.json"] == by_number == {**first, "checkpoint": "0"}
    assert found[f"valid+{digest[:12]}_subsets.json"] == table
    assert (tmp_path / "eval" / f"valid+{digest[:12]}_confusion_matrix.png").exists()
    # What a run of data that its config names is given is another; of one that kept no
    # fingerprints all else that is known has to do.
    assert own_data.fingerprints(tmp_path, {"own_dataset": False}, equal=True) == {}
    assert own_data.fingerprints(tmp_path, {"own_dataset": True}, equal=True) == fingerprints
    for equal, found in ((True, None), (False, {})):
        assert own_data.fingerprints(tmp_path / "old", {"own_dataset": True}, equal) == found


def test_a_run_whose_data_is_elsewhere_says_what_to_pass(tmp_path, monkeypatch, capsys):
    asked, now = [], tmp_path / "now"
    now.mkdir()

    def gone(config, statistics, prepared):
        asked.append((config, prepared))
        if config.data_dir != str(now):
            raise FileNotFoundError("no such folder")
        return synthetic.dataset()

    monkeypatch.setattr(run, "open_dataset", gone)
    _save_normal(tmp_path, synthetic.dataset().info, prepared={"data_dir": "/then"})
    with pytest.raises(directory.RunDirectoryError) as error:
        run.evaluate_run(tmp_path, "valid", "best")
    for part in (f"data of {tmp_path}", "no such folder", "--data_dir=FOLDER", "data_folders"):
        assert part in str(error.value)
    _eval(f"--workdir={tmp_path}", "--split=valid", f"--data_dir={now}")
    assert asked[-1] == (dataclasses.replace(asked[0][0], data_dir=str(now)), {"data_dir": "/then"})
    with pytest.raises(ValueError, match="watch has no manual_dir; allowed are data_dir"):
        run.evaluate_run(tmp_path, "valid", "best", data_folders={"manual_dir": str(now)})
    with pytest.raises(ValueError, match="--data_dir=/nowhere: there is no such folder"):
        _eval(f"--workdir={tmp_path}", "--split=valid", "--data_dir=/nowhere")


def test_numbers_come_first_and_files_are_looked_at_before(trained, tmp_path, monkeypatch, capsys):
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


def test_outputs_that_are_not_finite_are_told_with_the_checkpoint(trained, monkeypatch):
    restore = run.restore

    def damaged(*given, **options):
        restored = restore(*given, **options)
        params = jax.tree.map(lambda a: a * np.nan, restored.params)
        return dataclasses.replace(restored, params=params)

    monkeypatch.setattr(run, "restore", damaged)
    message = r"run0, best checkpoint, step \d+: logits: NaN or infinite for 20 of 20 examples"
    for evaluate in (run.evaluate_run, run.evaluate_every_subset):
        with pytest.raises(ArithmeticError, match=message):
            evaluate(trained, "valid", "best")


def test_data_that_has_changed_is_named(trained, monkeypatch):
    monkeypatch.setattr(run, "open_dataset", lambda *_: synthetic.dataset(valid=9))
    message = "num_examples was {'train': 50, 'valid': 20}, is {'train': 50, 'valid': 9}$"
    with pytest.raises(directory.RunDirectoryError, match=message):
        run.evaluate_run(trained, "valid", "best")
