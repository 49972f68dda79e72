"""The study: rows are tuned by validation alone, and corruptions are as stated."""

import types

import numpy as np
import pytest
import synthetic

from benchmarks import freshness
from benchmarks.classical import METHODS
from benchmarks.study import __main__ as study
from benchmarks.study import (
    corruption,
    counts,
    ensemble,
    leave_out,
    rows,
    sets,
    why,
)
from benchmarks.study.sets import CLS_ALONE, SETS, SFT
from sft_jax.data.dataset import DatasetInfo, padded_inputs
from sft_jax.data.standardisation import Standardisation
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.scores import probabilities
from sft_jax.modules.budget import with_budget
from sft_jax.modules.factory import build_model
from sft_jax.profile import flops
from sft_jax.structs import ModalitySpec


@pytest.mark.parametrize("name", SETS)
def test_every_row_of_a_set_is_a_valid_experiment(name):
    one = SETS[name]
    configs = [rows.experiment_of(one.base, row, "raw") for row in one.rows.values()]
    assert len({repr(config) for config in configs}) == len(configs)
    assert SFT in one.rows
    assert {*one.classical} <= {*METHODS}


def _read(place, values):
    results = {("", seed): {"loss": value, "n_examples": 9, "step": 3} for seed, value in values}
    units = {key: types.SimpleNamespace(result=result) for key, result in results.items()}
    model = types.SimpleNamespace(task="single_label")
    return types.SimpleNamespace(
        units=units,
        config=types.SimpleNamespace(model=model),
        info=types.SimpleNamespace(class_names=("a", "b", "c")),
    )


def test_the_rate_is_chosen_by_validation_and_tested_alone(monkeypatch, tmp_path):
    trained, tested = {}, []
    losses = {0.001: 0.4, 0.002: 0.3, 0.004: 0.5}

    def train_seeds(config, place, shared):
        trained.setdefault(place.name, []).append((config.optim.lr, config.seeds))

    def read_row(name, place, request):
        lr, seeds = trained[place.name][-1]
        if request.split == "test":
            tested.append(place.name)
        return _read(place, [(seed, losses[lr] + seed) for seed in seeds])

    monkeypatch.setattr(rows.experiment, "train_seeds", train_seeds)
    monkeypatch.setattr(rows, "read_row", read_row)
    monkeypatch.setattr(rows, "_size", lambda row: {})
    config = rows.experiment_of(SETS["watch"].base, sets.StudyRow(), "")
    result = rows.train_row(config, sets.StudyRow(), [0, 1], tmp_path)
    assert result["tuning"] == {"0.5": 0.4, "1": 0.3, "2": 0.5}
    assert (result["rate"], result["lr"]) == (1.0, 0.002)
    assert trained["rate_1"] == [(0.002, (0,)), (0.002, (0, 1))]
    assert tested == ["rate_1"]
    assert result["test"]["loss"]["values"] == [0.3, 1.3]


def test_a_killed_start_leaves_no_run_that_could_choose_the_rate(tmp_path):
    names = ("rate_1/seed_0", "rate_2/seed_0", "rate_2/seed_1", "rate_2/fold_0/seed_1")
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    study.forget(tmp_path, sets.StudyRow(rates=(1.0,)), 0)
    assert all((tmp_path / name).exists() for name in names)
    study.forget(tmp_path, sets.StudyRow(), 0)
    assert [(tmp_path / name).exists() for name in names] == [True, True, False, False]


def test_all_folds_are_trained(monkeypatch, tmp_path):
    trained = []
    monkeypatch.setattr(
        rows.experiment,
        "train_seeds",
        lambda config, place, shared: trained.append((place.name, config.data.fold)),
    )
    monkeypatch.setattr(rows, "read_row", lambda name, place, request: _read(place, [(0, 0.1)]))
    monkeypatch.setattr(rows, "_size", lambda row: {})
    config = rows.experiment_of(SETS["watch"].base, sets.StudyRow({"data.folds": 3}), "")
    rows.train_row(config, sets.StudyRow(rates=(1.0,)), [0], tmp_path)
    assert trained == [("fold_0", 0), ("fold_1", 1), ("fold_2", 2)]


def test_a_row_of_another_experiment_or_code_is_measured_again(tmp_path):
    one = SETS["watch"]
    row = {"experiment": one.definition(SFT), "code": freshness.identity(one.scope)}
    assert study.is_done(row, one, SFT)
    others = [
        {**row, "experiment": one.definition(CLS_ALONE)},
        {**row, "code": {**row["code"], "scope_digest": "sha256:other"}},
    ]
    assert not any(study.is_done(other, one, SFT) for other in [None, *others])
    assert len({study.folder(tmp_path, SFT, own) for own in [row, *others]}) == 3


def test_products_are_counted_apart_for_a_row_and_each_setting():
    config, info = synthetic.config(), synthetic.dataset().info
    row = types.SimpleNamespace(name="sft", config=config, info=info)
    model = build_model(config.model, info.modalities, len(info.class_names))
    whole, without = (flops.forward_cost(own) for own in (model, with_budget(model, 0)))
    values = {"flops": whole.flops, "settings": [{"k": 0, "flops": without.flops}]}
    counts.add(values, row)
    assert values["matmul_flops"] == whole.matmul_flops < whole.flops
    assert values["settings"][0]["matmul_flops"] == without.matmul_flops < whole.matmul_flops
    with pytest.raises(ValueError, match=r"sft counts \d+ operations, .* counted 1: train"):
        counts.add({"flops": 1}, row)


def test_operations_of_the_kernels_of_smaller_patches_belong_to_the_row_alone():
    config, info = synthetic.config(train__elastic_patch=(1, 2)), synthetic.dataset().info
    model = build_model(config.model, info.modalities, len(info.class_names))
    assert model.tokenizer_stride == 2
    whole, own = (flops.forward_cost(one) for one in (model, model.clone(tokenizer_stride=1)))
    values = {"flops": whole.flops, "settings": [{"stride": 1, "flops": own.flops}]}
    counts.add(values, types.SimpleNamespace(name="any patch", config=config, info=info))
    assert whole.flops > own.flops
    counted = values["matmul_flops"], values["settings"][0]["matmul_flops"]
    assert counted == (whole.matmul_flops, own.matmul_flops)


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_an_ensemble_averages_what_outputs_stand_for(task):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 6 if task == "single_label" else (6, 3))
    members = [
        Predictions(np.arange(6), labels, random.normal(size=(6, 3)) * 9, np.full(6, loss), task)
        for loss in (1.0, 3.0)
    ]
    averaged = ensemble.average(members)
    each = [probabilities(task, one.logits) for one in members]
    np.testing.assert_allclose(probabilities(task, averaged.logits), np.mean(each, 0), rtol=1e-9)
    assert averaged.loss.tolist() == [2.0] * 6


def test_an_ensemble_is_of_the_seeds_of_each_fold():
    def unit(logits):
        logits = np.array(logits)
        own = Predictions(np.arange(2), np.array([0, 1]), logits, np.zeros(2), "single_label")
        return types.SimpleNamespace(predictions=own)

    info = types.SimpleNamespace(class_names=["a", "b"], metrics=())
    right, wrong, unsure = [[9.0, 0], [0, 9.0]], [[0, 1.0], [1.0, 0]], [[0, 2.0], [0, 2.0]]
    units = {("0", 0): unit(right), ("0", 1): unit(wrong), ("1", 0): unit(unsure)}
    row = types.SimpleNamespace(name="sft", units=units, info=info)
    assert ensemble.metric(row, "accuracy") == 0.75
    units["1", 0].predictions = None
    with pytest.raises(ValueError, match=r"sft: .* has no predictions"):
        ensemble.metric(row, "accuracy")


def test_noise_changes_real_values_of_the_chosen_columns_alone():
    values, mask = np.zeros((50, 3), np.float32), np.arange(50) < 40
    random = np.random.default_rng(0)
    noisy, kept_mask = corruption.noisy(2.0)(values, mask, random, slice(2, None))
    assert not noisy[:, :2].any()
    assert not noisy[40:].any()
    assert not values.any()
    assert noisy[:40, 2].std() == pytest.approx(2, rel=0.3)
    assert kept_mask is mask


def test_a_share_of_the_steps_is_missing_in_one_stretch():
    values, mask = np.ones((50, 2), np.float32), np.arange(50) < 40
    random = np.random.default_rng(0)
    cut, left = corruption.missing(0.25)(values, mask, random, slice(None))
    gone = np.flatnonzero(mask & ~left)
    assert len(gone) == 10
    assert (np.diff(gone) == 1).all()
    assert not cut[gone].any()
    assert mask.sum() == 40
    assert not corruption.missing(1.0)(values, mask, random, slice(None))[1].any()


def test_a_derived_modality_is_computed_from_corrupted_values():
    random = np.random.default_rng(0)
    specs = {"motion": ModalitySpec((64,), 2, patch_size=8), "summary": ModalitySpec((1,), 24)}
    statistics = {
        name: Standardisation(tuple(random.normal(size=n)), tuple(random.uniform(1, 2, size=n)))
        for name, n in (("motion", 2), ("summary", 24))
    }
    info = DatasetInfo(specs, ["a", "b"], statistics, {}, derived={"summary": "summary:motion"})
    raw = random.normal(size=(50, 2))
    inputs, masks = padded_inputs(info, {"id": "0", "inputs": {"motion": raw}})
    ((values, mask),) = corruption.derived_anew(
        info, "motion", inputs["motion"], masks["motion"]
    ).values()
    np.testing.assert_allclose(values, inputs["summary"], rtol=1e-4, atol=1e-5)
    assert mask.all()
    none = np.zeros_like(masks["motion"])
    ((values, mask),) = corruption.derived_anew(info, "motion", inputs["motion"], none).values()
    assert not values.any()
    assert not mask.any()
    assert corruption.derived_anew(info, "summary", inputs["summary"], mask) == {}


def test_runs_of_another_experiment_are_explained_anew(tmp_path):
    folders = {"sft": tmp_path / "sft_a", "late": tmp_path / "late_b", "mult": tmp_path / "mult_c"}
    explained = {"sft": {"runs": "sft_a"}, "late": {"runs": "late_b"}}
    result = {"why": {"rows": explained, "code": freshness.identity(" ".join(why._SCOPE))}}
    assert why.is_fresh(result, folders)
    assert not why.is_fresh(result, {**folders, "late": tmp_path / "late_d"})
    assert not why.is_fresh({}, folders)
    result["why"]["code"]["scope_digest"] = "sha256:other"
    assert not why.is_fresh(result, folders)


def test_each_real_token_is_left_out_once():
    spec = ModalitySpec((4, 4), 1, patch_size=2)
    mask = np.ones((4, 4), bool)
    mask[2:, 2:] = False
    real, without = leave_out._without_each(spec, mask)
    assert real.tolist() == [0, 1, 2]
    assert [int(own.sum()) for own in without] == [8, 8, 8]
    assert not without[1][:2, 2:].any()


def test_agreement_of_saliency_and_change():
    change = np.array([0.1, 0.4, 0.3, 0.2])
    agreement = leave_out._agreement(change * 2, change, np.array([1, 0]), np.arange(4))
    assert agreement == {"spearman": pytest.approx(1), "kept": 0.5, "by_chance": 0.5}
