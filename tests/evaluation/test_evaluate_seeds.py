"""Evaluation of the runs of several seeds together, by the function and by eval.py."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import synthetic

from sft_jax.commands import evaluate
from sft_jax.data.arrays import from_arrays
from sft_jax.evaluation import restored, run
from sft_jax.evaluation.seeds import evaluate_seeds, summarise
from sft_jax.parallel import sharding
from sft_jax.runs.checkpoint import Checkpoints, NoCheckpointError
from sft_jax.runs.directory import RunDirectory, RunDirectoryError, SeedsDirectory
from sft_jax.runs.storage import write_json
from sft_jax.training import assembly

pytestmark = pytest.mark.process

CONFIG = dataclasses.replace(synthetic.config(), seeds=(10, 2))
TOTAL = assembly.Plan.from_config(CONFIG, 50).total_steps


@pytest.fixture(autouse=True)
def _dataset(monkeypatch):
    monkeypatch.setattr(restored, "open_dataset", lambda *_: synthetic.dataset())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Seed 10 at its end and seed 2 at step 7, of normal parameters; training would take longer."""
    workdir = tmp_path_factory.mktemp("seeds")
    info = synthetic.dataset().info
    SeedsDirectory.open(workdir, CONFIG)
    assembled = assembly.assemble_model(
        CONFIG,
        info.modalities,
        len(info.class_names),
        num_examples=50,
        mesh=sharding.make_mesh(),
    )
    state = assembled.new_state(0)
    for seed, step in ((10, TOTAL), (2, 7)):
        random = np.random.default_rng(seed)
        normal = jax.tree.map(
            lambda a, random=random: jax.device_put(
                random.normal(size=a.shape).astype(a.dtype), a.sharding
            ),
            state.params,
        )
        saved = state.replace(
            params=normal, step=jax.device_put(np.int32(step), state.step.sharding)
        )
        checkpoints = Checkpoints(workdir / f"seed_{seed}")
        for kind in ("latest", "best"):
            checkpoints.save(kind, saved, {"dataset": info.to_json()})
        checkpoints.close()
    return workdir


def _eval(*arguments):
    synthetic.run_command(evaluate, "--report=false", *arguments)


def test_each_metric_has_its_values_mean_and_deviation(trained, capsys, monkeypatch):
    evaluators = []
    make = restored.OpenedRun.evaluator
    monkeypatch.setattr(
        restored.OpenedRun,
        "evaluator",
        lambda *args: evaluators.append(make(*args)) or evaluators[-1],
    )
    _eval(f"--workdir={trained}", "--split=valid")
    output = capsys.readouterr().out
    assert [evaluator.compiles for evaluator in evaluators] == [1]
    result = json.loads((trained / "eval" / "valid.json").read_text())
    assert (result["seeds"], result["n_seeds"], result["steps"]) == ([2, 10], 2, [7, TOTAL])
    assert (result["n_examples"], result["unfinished"]) == (20, [2])
    assert "20 examples, 2 seeds" in output
    assert "not trained to the end yet: seeds 2" in output
    assert f"results: {trained}/eval/valid.json" in output

    alone = [run.evaluate_run(trained / f"seed_{seed}", "valid", "best")[0] for seed in (2, 10)]
    assert set(result["metrics"]) == {"accuracy", "balanced_accuracy", "macro_f1", "loss"}
    for name, summary in result["metrics"].items():
        values = [one[name] for one in alone]
        assert summary["values"] == values
        assert values[0] != values[1]
        assert summary["mean"] == pytest.approx(np.mean(values))
        assert summary["std"] == pytest.approx(np.std(values, ddof=1))
        for value in values:
            assert f"{value:.4f}" in output
        assert f"{summary['mean']:.4f} ± {summary['std']:.4f}" in output
    files = {path.name for path in (trained / "seed_2" / "eval").iterdir()}
    assert files == {"valid.json", "valid_confusion_matrix.png", "valid_reliability.png"}


def test_split_checkpoint_and_modalities_apply_to_all_runs(trained):
    result = evaluate_seeds(str(trained), "train", "latest", ["sound"])
    assert (result["checkpoint"], result["left_out"]) == ("latest", ["sight"])
    assert json.loads((trained / "eval" / "train-sound@latest.json").read_text()) == result
    with pytest.raises(NoCheckpointError, match=r"no checkpoint '7' in .*seed_10"):
        evaluate_seeds(trained, "valid", "7")


@pytest.mark.parametrize("option", ["--every_subset", "--predictions=p.csv"])
def test_options_for_one_run_alone_are_refused(trained, option):
    with pytest.raises(
        RunDirectoryError, match=r"several seeds: give one of them, such as .*seed_"
    ):
        _eval(f"--workdir={trained}", option)


def test_a_folder_of_seeds_is_no_run(trained, tmp_path):
    with pytest.raises(RunDirectoryError, match="holds the runs of several seeds: give one"):
        run.evaluate_run(trained, "valid", "best")
    with pytest.raises(RunDirectoryError, match="holds no runs of seeds"):
        evaluate_seeds(tmp_path, "valid", "best")


def test_runs_with_other_settings_are_not_averaged(tmp_path):
    SeedsDirectory.open(tmp_path, CONFIG)
    other = synthetic.config(seed=3, optim__lr=0.5)
    RunDirectory.open(tmp_path / "seed_3", other)
    with pytest.raises(RunDirectoryError, match=r"seed_3 was made by another"):
        evaluate_seeds(tmp_path, "valid", "best")


def test_the_card_of_the_data_is_shown(trained, capsys):
    labels = {split: np.zeros(3, int) for split in ("train", "valid")}
    inputs = {split: {"x": np.full((3, 2, 2), np.nan)} for split in labels}
    card = from_arrays(inputs, labels, ("no", "yes"), not_finite="zero").card
    write_json(trained / "seed_2" / "data_card.json", card.to_json())
    _eval(f"--workdir={trained}", "--split=valid")
    assert "data: arrays, arrays: 3 train, 3 valid examples" in capsys.readouterr().out


def test_undefined_metrics_and_one_seed_have_no_spread():
    first = {"split": "test", "loss": 1.0, "kappa": None, "ranking": {"top1": 0.5, "names": ["a"]}}
    second = {"split": "test", "loss": 2.0, "kappa": 0.5, "ranking": {"top1": 0.5, "names": ["a"]}}
    assert summarise([first, second]) == {
        "loss": {"values": [1.0, 2.0], "mean": 1.5, "std": pytest.approx(0.5**0.5)},
        "kappa": {"values": [None, 0.5], "mean": None, "std": None},
        "ranking": {"top1": {"values": [0.5, 0.5], "mean": 0.5, "std": 0.0}},
    }
    assert summarise([first])["loss"] == {"values": [1.0], "mean": 1.0, "std": None}
