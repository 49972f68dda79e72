"""Every task except single_label, the subject of the other tests, from training to evaluation."""

import json

import pytest
import synthetic
from sparing import slow_but

from sft_jax.evaluation import restored, run

pytestmark = pytest.mark.process

# Model, ranges of metrics after training, and picture.
CASES = {
    # Averages the heads of both modalities.
    "ordinal": (
        "late",
        {"accuracy": (0.5, 1), "quadratic_weighted_kappa": (0.5, 1)},
        ["confusion_matrix", "reliability"],
    ),
    "multi_label": (
        "concat",
        {"accuracy": (0.75, 1), "macro_roc_auc": (0.85, 1)},
        ["per_label", "reliability", "roc_pr"],
    ),
    "regression": ("concat", {"mae": (0, 0.5), "r2": (0.3, 1)}, ["scatter"]),
}


@pytest.mark.parametrize("task", slow_but(CASES, "ordinal"))
def test_a_task_is_learnt_saved_and_evaluated(tmp_path, monkeypatch, task):
    model, expected, pictures = CASES[task]
    experiment = synthetic.config(
        model__name=model,
        model__task=task,
        model__dropout=0.0,
        model__embedding_std=0.02,
        optim__lr=2e-2,
        train__epochs=10,
        train__batch_size=16,
        train__accumulate=2,
        train__evaluate_every_epochs=5,
    )
    result, evaluator = synthetic.run(tmp_path, experiment)
    assert (result.train_compiles, evaluator.compiles) == (1, 1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < 0.6 * losses[0]
    score = "mae" if task == "regression" else "accuracy"
    assert {name for line in lines for name in line} == {
        "step", "train/loss", f"train/{score}", "train/gradient_norm", "train/learning_rate",
        "train/input_wait",
        "valid/loss", f"valid/{score}",
    }  # fmt: skip

    monkeypatch.setattr(restored, "open_dataset", lambda *_: synthetic.dataset(task=task))
    metrics, predictions = run.evaluate_run(tmp_path, "valid", "best")
    assert predictions.task == task
    assert metrics["loss"] == pytest.approx(result.best_value, rel=1e-5)
    best = next(line for line in lines if line.get("valid/loss") == result.best_value)
    assert metrics[score] == pytest.approx(best[f"valid/{score}"], rel=1e-5)
    for name, (low, high) in expected.items():
        assert low < metrics[name] <= high, name
    files = sorted(path.name for path in (tmp_path / "eval").iterdir())
    assert files == ["valid.json", *(f"valid_{name}.png" for name in pictures)]
    assert json.loads((tmp_path / "eval" / "valid.json").read_text()) == metrics

    other = "regression" if task == "multi_label" else "multi_label"
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["task"] = other
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"task='{other}' does not fit the dataset, whose task is"):
        run.evaluate_run(tmp_path, "valid", "best")
