"""Trained runs at several strides and numbers of kept tokens, by the function and by eval.py."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
import synthetic

from sft_jax.commands import evaluate
from sft_jax.evaluation import restored, run
from sft_jax.modules.budget import with_budget
from sft_jax.modules.factory import build_model
from sft_jax.modules.stride import with_stride
from sft_jax.parallel import sharding
from sft_jax.profile import budgets, measure
from sft_jax.profile.flops import forward_cost
from sft_jax.runs.checkpoint import Checkpoints
from sft_jax.runs.directory import SeedsDirectory
from sft_jax.training import optim
from sft_jax.training.state import state_shapes

pytestmark = pytest.mark.process

CONFIG = dataclasses.replace(synthetic.config(), seeds=(1, 2))
INFO = synthetic.dataset().info
MODEL = build_model(CONFIG.model, INFO.modalities, len(INFO.class_names))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(restored, "open_dataset", lambda *_: synthetic.dataset())
    monkeypatch.setattr(measure, "_MIN_SECONDS", 0.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs of two seeds, of normal parameters; training would take longer."""
    workdir = tmp_path_factory.mktemp("seeds")
    SeedsDirectory.open(workdir, CONFIG)
    optimizer = optim.make_optimizer(CONFIG.optim, optax.constant_schedule(0.1))
    shapes = state_shapes(MODEL, optimizer, ema=False, mesh=sharding.make_mesh())
    for seed in CONFIG.seeds:
        random = np.random.default_rng(seed)
        values = jax.tree.map(
            lambda a, random=random: jax.device_put(
                random.normal(size=a.shape).astype(a.dtype), a.sharding
            ),
            shapes,
        )
        checkpoints = Checkpoints(workdir / f"seed_{seed}")
        checkpoints.save("best", values, {"dataset": INFO.to_json()})
        checkpoints.close()
    return workdir


def _eval(*arguments):
    synthetic.run_command(evaluate, "--report=false", *arguments)


def _files(workdir, stem="budgets"):
    return {path.name for path in (workdir / "eval").glob(f"*_{stem}.*")}


def test_each_budget_has_its_metrics_and_cost(trained, capsys):
    workdir = trained / "seed_1"
    _eval(f"--workdir={workdir}", "--split=valid", "--k=6,0,2,2")
    output = capsys.readouterr().out
    result = json.loads((workdir / "eval" / "valid_budgets.json").read_text())
    rows = {row["k"]: row for row in result["budgets"]}
    assert [*rows] == [0, 2, 6]
    assert (result["n_examples"], result["seeds"], result["score"]) == (20, [1], "accuracy")
    for k, row in rows.items():
        assert row["flops"] == forward_cost(with_budget(MODEL, k)).flops
        assert row["milliseconds"] > 0
        assert f"{row['metrics']['loss']['mean']:.4f}" in output
    assert rows[0]["flops"] < rows[2]["flops"] < rows[6]["flops"]
    # The run keeps two tokens.
    alone, _ = run.evaluate_run(workdir, "valid", "best")
    for name, metric in rows[2]["metrics"].items():
        assert metric == {"values": [alone[name]], "mean": alone[name], "std": None}
    losses = {row["metrics"]["loss"]["mean"] for row in rows.values()}
    assert len(losses) == 3
    assert _files(workdir) == {"valid_budgets.json", "valid_budgets.png"}
    assert f"results: {workdir}/eval/valid_budgets.json" in output


def test_several_seeds_have_a_mean_and_spread(trained):
    seen = []
    result = budgets.evaluate_budgets(trained, "valid", "best", [1, 3], ["sound"], show=seen.append)
    assert seen == [result]
    assert (result["n_seeds"], result["seeds"], result["left_out"]) == (2, [1, 2], ["sight"])
    assert _files(trained) == {"valid-sound_budgets.json", "valid-sound_budgets.png"}
    few, many = result["budgets"]
    assert few["flops"] < many["flops"] < forward_cost(with_budget(MODEL, 3)).flops
    for row in (few, many):
        loss = row["metrics"]["loss"]
        assert len({*loss["values"]}) == 2
        assert loss["std"] == pytest.approx(np.std(loss["values"], ddof=1))


def test_each_stride_has_its_metrics_and_cost(trained, capsys):
    workdir = trained / "seed_1"
    _eval(f"--workdir={workdir}", "--split=valid", "--stride=4,1")
    output = capsys.readouterr().out
    result = json.loads((workdir / "eval" / "valid_strides.json").read_text())
    rows = {row["stride"]: row for row in result["budgets"]}
    assert [*rows] == [1, 4]
    for stride, row in rows.items():
        assert row["flops"] == forward_cost(with_stride(MODEL, stride)).flops
        assert f"{row['metrics']['loss']['mean']:.4f}" in output
    assert rows[1]["metrics"]["loss"] != rows[4]["metrics"]["loss"]
    assert _files(workdir, "strides") == {"valid_strides.json", "valid_strides.png"}
    assert f"results: {workdir}/eval/valid_strides.json" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k=two"], "--k=two: expected whole numbers from 0"),
        (["--k=7"], "k=7 for modality 'sight', which has 6 tokens"),
        (["--k=1", "--every_subset"], "--k and --stride go with neither"),
        (["--stride=1,0"], "--stride=1,0: expected whole numbers from 1"),
        (["--stride=7"], "stride=7 for modality 'sight': patches of"),
        (["--stride=2", "--k=4"], "k=4 for modality 'sight', which has 3 tokens"),
    ],
)
def test_wrong_budgets_are_refused(trained, arguments, message):
    with pytest.raises(ValueError, match=message):
        _eval(f"--workdir={trained / 'seed_1'}", "--split=valid", *arguments)


def test_without_any_number_nothing_is_evaluated(trained):
    with pytest.raises(ValueError, match="budgets and strides are empty"):
        budgets.evaluate_budgets(trained, "valid", "best", [])
