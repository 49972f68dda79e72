"""Trained runs at several strides, depths and budgets, by the function and by eval.py."""

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
from sft_jax.modules.depth import with_depth
from sft_jax.modules.factory import build_model
from sft_jax.modules.stride import with_stride
from sft_jax.parallel import sharding
from sft_jax.profile import budgets, cascade, measure
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
    """Runs of two seeds."""
    workdir = tmp_path_factory.mktemp("seeds")
    _write_runs(workdir, CONFIG, MODEL)
    return workdir


def _write_runs(workdir, config, model):
    """Writes runs of normal parameters; training would take longer."""
    SeedsDirectory.open(workdir, config)
    optimizer = optim.make_optimizer(config.optim, optax.constant_schedule(0.1))
    shapes = state_shapes(model, optimizer, ema=False, mesh=sharding.make_mesh())
    for seed in config.seeds:
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


def test_each_depth_has_its_metrics_and_cost(tmp_path):
    model = dataclasses.replace(CONFIG.model, name="mbt", n_post=2, layer_drop=0.2)
    mbt = build_model(model, INFO.modalities, len(INFO.class_names))
    _write_runs(tmp_path, dataclasses.replace(CONFIG, seeds=(1,), model=model), mbt)
    _eval(f"--workdir={tmp_path / 'seed_1'}", "--split=valid", "--depth=2,1")
    path = tmp_path / "seed_1" / "eval" / "valid_depths.json"
    rows = {row["depth"]: row for row in json.loads(path.read_text())["budgets"]}
    assert [*rows] == [1, 2]
    for depth, row in rows.items():
        assert row["flops"] == forward_cost(with_depth(mbt, depth)).flops
    assert rows[1]["metrics"]["loss"] != rows[2]["metrics"]["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--depth=1"], "depth=1: SparseFusionTransformer computes all of its blocks"),
        (["--k=two"], "--k=two: expected whole numbers from 0"),
        (["--k=9"], "k=9 for modality 'sight', which has 6 tokens"),
        (["--k=1", "--every_subset"], "--k, --stride and --depth go with"),
        (["--stride=1,0"], "--stride=1,0: expected whole numbers from 1"),
        (["--stride=7"], "stride=7 for modality 'sight': patches of"),
        (["--stride=2", "--k=9"], "k=9 for modality 'sight', which has 3 tokens"),
    ],
)
def test_wrong_budgets_are_refused(trained, arguments, message):
    with pytest.raises(ValueError, match=message):
        _eval(f"--workdir={trained / 'seed_1'}", "--split=valid", *arguments)


def test_a_cascade_has_the_metrics_of_the_stages_where_examples_stop(trained, capsys):
    _eval(f"--workdir={trained}", "--split=valid", "--cascade=0,6,2", "--cascade_tolerance=0.1")
    output = capsys.readouterr().out
    result = json.loads((trained / "eval" / "valid_cascade.json").read_text())
    assert f"results: {trained}/eval/valid_cascade.json" in output
    stages, flops = result["stages"], result["flops"]["values"]
    assert [stage["k"] for stage in stages] == [0, 2, 6]
    assert [stage["flops"] for stage in stages] == cascade.stage_flops(
        MODEL, [0, 2, 6], ["sight", "sound"]
    )
    shares = np.array([stage["share"]["values"] for stage in stages])
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    np.testing.assert_allclose(shares.T @ [stage["flops"] for stage in stages], flops)
    for i, accuracy in enumerate(result["metrics"]["accuracy"]["values"]):
        # The split is that of the choice.
        assert accuracy == pytest.approx(result["valid"]["cascade"]["values"][i])
        assert accuracy >= stages[-1]["accuracy"]["values"][i] - 0.1 - 1e-9
    own, _ = run.evaluate_run(trained / "seed_1", "valid", "best")
    assert result["stages"][1]["accuracy"]["values"][0] == own["accuracy"]
    assert result["flops_of_largest"] == forward_cost(with_budget(MODEL, 6)).flops


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cascade=2"], r"cascade=\[2\]: expected at least two"),
        (["--cascade=0,9"], "k=9 for modality 'sight', which has 6 tokens"),
        (["--cascade=0,2", "--k=1"], "--cascade goes with none of .*; got --k"),
        (["--cascade=0,2", "--cascade_tolerance=1"], "cascade_tolerance=1.0 must be at least 0"),
        (["--cascade_tolerance=0.1"], "--cascade_tolerance is given without --cascade"),
    ],
)
def test_wrong_cascades_are_refused(trained, arguments, message):
    with pytest.raises(ValueError, match=message):
        _eval(f"--workdir={trained / 'seed_1'}", "--split=valid", *arguments)


def test_without_any_number_nothing_is_evaluated(trained):
    with pytest.raises(ValueError, match="budgets, strides and depths are empty"):
        budgets.evaluate_budgets(trained, "valid", "best", [])
