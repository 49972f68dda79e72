"""Classifiers: from a run directory and raw values to names, probabilities and kept tokens."""

import csv
import dataclasses
import json
import logging
import pathlib
import re
import shutil
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
import scipy.special
import synthetic

import sft_jax
from sft_jax import ModalitySpec, SparseFusionTransformer, Unimodal
from sft_jax.data.dataset import DatasetInfo, Standardisation, padded_inputs
from sft_jax.evaluation import report
from sft_jax.evaluation.run import evaluate_run
from sft_jax.export.opened import open_run
from sft_jax.export.written import metadata, with_k
from sft_jax.inference.classifier import Classifier
from sft_jax.inference.explain import SELECTING
from sft_jax.modules.factory import build_model
from sft_jax.modules.stride import resize_params, with_stride
from sft_jax.ops.pool import POOLS
from sft_jax.runs.directory import RunDirectory, RunDirectoryError, SeedsDirectory
from sft_jax.runs.shelf import DamagedCheckpointError, NoCheckpointError

pytestmark = pytest.mark.process

ROOT = pathlib.Path(__file__).parents[1]
SPLIT = "valid"


def _raw(example):
    """Raw values of a synthetic example, cut to their lengths; None for an absent modality."""
    return {
        name: values[example["masks"][name]] if example["masks"][name].any() else None
        for name, values in example["inputs"].items()
    }


def _together(examples):
    return {name: [example[name] for example in examples] for name in examples[0]}


@pytest.fixture(scope="module")
def raw():
    return [_raw(synthetic.example(1000 + i)) for i in range(20)]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("classifier") / "run"
    info = synthetic.dataset().info
    synthetic.save_run(workdir, info, synthetic.config(train__ema_decay=0.9))
    return workdir


@pytest.fixture(scope="module")
def classifier(workdir):
    return sft_jax.load(workdir)


def _random_params(model):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), model.example_inputs()))
    random = np.random.default_rng(1)
    return jax.tree.map(lambda a: random.normal(size=a.shape).astype(a.dtype), shapes["params"])


def _small(task="single_label", **changes):
    """Classifier of a small model with random parameters, without a run directory."""
    info = synthetic.dataset(train=10, valid=2, task=task).info
    config = synthetic.config(model__task=task, **changes).model
    model = build_model(config, info.modalities, len(info.class_names))
    return Classifier(model, _random_params(model), info)


# Equality with evaluation.


def test_probabilities_are_those_of_the_evaluation(workdir, classifier, raw, tmp_path):
    _, predictions = evaluate_run(workdir, SPLIT, "best", dataset=synthetic.dataset())
    report.write_predictions(tmp_path / "p.csv", predictions, classifier.info.class_names)
    with open(tmp_path / "p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert any(example["sound"] is None for example in raw)
    probabilities = classifier.predict_proba(_together(raw))
    assert probabilities.shape == (20, 3)
    exact = scipy.special.softmax(predictions.logits, axis=-1)
    np.testing.assert_allclose(probabilities, exact, rtol=0, atol=1e-6)
    written = [[float(row[f"p({name})"]) for name in synthetic.CLASSES] for row in rows]
    np.testing.assert_allclose(probabilities, written, rtol=0, atol=2e-6)
    assert classifier.predict(_together(raw)) == [row["prediction"] for row in rows]
    alone = [classifier.predict_proba(example) for example in raw[:4]]
    np.testing.assert_allclose(alone, exact[:4], rtol=0, atol=1e-6)
    assert classifier.predict(raw[0]) == rows[0]["prediction"]


def test_a_moved_run_needs_no_data(workdir, tmp_path, classifier):
    moved = tmp_path / "elsewhere" / "run"
    shutil.copytree(workdir, moved)
    config = json.loads((moved / "config.json").read_text())
    # A dataset whose package is not installed here.
    (moved / "config.json").write_text(json.dumps(config | {"data": {"name": "gone.away:Data"}}))
    again = sft_jax.load(str(moved), 5)
    assert again.step == classifier.step == 5
    chex.assert_trees_all_equal(again.params, classifier.params)
    assert again.model == classifier.model
    assert again.info == classifier.info


def test_every_task_gives_its_kind_of_prediction(raw):
    several = _together(raw[:5])
    ordinal = _small("ordinal")
    assert set(ordinal.predict(several)) <= set(synthetic.CLASSES)
    np.testing.assert_allclose(ordinal.predict_proba(several).sum(axis=1), 1, rtol=1e-5)

    labels = _small("multi_label")
    probabilities, names = labels.predict_proba(several), synthetic.NAMES["multi_label"]
    expected = [tuple(np.array(names)[row > 0.5]) for row in probabilities]
    assert labels.predict(several) == expected
    assert labels.predict(several, threshold=0) == [names] * 5
    above = labels.predict(several, threshold={names[0]: 1, names[1]: 0})
    assert above == [names[1:]] * 5
    with pytest.raises(ValueError, match=r"threshold names \['above'\]; the labels are above low"):
        labels.predict(several, threshold={"above": 0.1})

    numbers = _small("regression")
    assert numbers.predict(several).shape == (5, 2)
    np.testing.assert_allclose(numbers.predict(raw[0]), numbers.predict(several)[0], rtol=1e-5)
    with pytest.raises(ValueError, match="a regression has no probabilities"):
        numbers.predict_proba(raw[0])


def test_thresholds_chosen_on_validation_data_are_used(tmp_path, raw):
    data = synthetic.dataset(task="multi_label")
    config = synthetic.config(model__task="multi_label")
    state = synthetic.save_run(tmp_path, data.info, config, own_dataset=True)
    several, names = _together(raw), data.info.class_names
    before = sft_jax.load(tmp_path)
    result, _ = evaluate_run(tmp_path, SPLIT, "best", dataset=data, thresholds="f1")
    chosen = {name: row["threshold"] for name, row in result["at_thresholds"]["per_label"].items()}
    assert set(chosen) == set(names)
    assert result["at_thresholds"]["f1"] > result["macro_f1"]
    loaded = sft_jax.load(tmp_path)
    assert (before.thresholds, loaded.thresholds) == (None, chosen)
    expected = before.predict(several, threshold=chosen)
    assert loaded.predict(several) == expected != before.predict(several)
    assert loaded.predict(several, threshold=0.5) == before.predict(several)
    only = {names[0]: 0.0}
    assert loaded.predict(several, threshold=only) == before.predict(
        several, threshold={**chosen, **only}
    )
    later, _ = evaluate_run(tmp_path, "train", "best", dataset=data)
    assert later["at_thresholds"]["per_label"].keys() == set(names)
    exported = open_run(tmp_path, examples=1)
    assert metadata(exported.classifier, "onnx")["thresholds"] == chosen
    assert metadata(with_k(exported.classifier, 1), "onnx")["thresholds"] == chosen
    # Those of another checkpoint do not count.
    RunDirectory(tmp_path).save_chosen("thresholds", chosen, step=int(state.step) + 1)
    assert sft_jax.load(tmp_path).thresholds is None
    for request, message in (
        ({"split": "train"}, "chosen with split=valid, got train"),
        ({"modalities": ["sight"]}, "own data, with all modalities"),
        ({"dataset": synthetic.dataset(valid=9, task="multi_label")}, "the run's own data"),
    ):
        options = {"split": SPLIT, "which": "best", "dataset": data, "thresholds": "f1", **request}
        with pytest.raises(ValueError, match=message):
            evaluate_run(tmp_path, **options)


def test_a_temperature_changes_probabilities_and_no_decision(tmp_path, raw):
    data = synthetic.dataset(task="multi_label")
    config = synthetic.config(model__task="multi_label")
    synthetic.save_run(tmp_path, data.info, config, own_dataset=True)
    several, run = _together(raw), RunDirectory(tmp_path)
    evaluate_run(tmp_path, SPLIT, "best", dataset=data, thresholds="f1")
    before = sft_jax.load(tmp_path)
    result, _ = evaluate_run(tmp_path, SPLIT, "best", dataset=data, calibrate=True)
    fitted, loaded = result["calibration"]["temperature"], sft_jax.load(tmp_path)
    assert loaded.temperature == fitted == run.temperature(loaded.step) != 1
    assert result["calibration"]["calibrated_nll"] < result["calibration"]["nll"]
    odds = scipy.special.logit(before.predict_proba(several).astype(float))
    probabilities = loaded.predict_proba(several)
    np.testing.assert_allclose(probabilities, scipy.special.expit(odds / fitted), atol=1e-4)
    assert loaded.predict(several) == before.predict(several)
    assert loaded.predict(several, threshold=0.5) == before.predict(several, threshold=0.5)
    later, _ = evaluate_run(tmp_path, "train", "best", dataset=data)
    assert later["calibration"]["temperature"] == fitted
    assert later["calibration"]["calibrated_ece"] != later["calibration"]["ece"]
    exported = open_run(tmp_path, examples=1).classifier
    described = metadata(with_k(exported, 1), "onnx")
    assert described["temperature"] == fitted
    assert described["thresholds"] == before.thresholds
    with pytest.raises(ValueError, match="calibrate: it is chosen on the run's own data"):
        evaluate_run(tmp_path, SPLIT, "best", ["sight"], dataset=data, calibrate=True)
    (tmp_path / "temperature.json").write_text('{"step": 5}')
    with pytest.raises(RunDirectoryError, match=r"temperature\.json is damaged: KeyError"):
        sft_jax.load(tmp_path)


def test_a_threshold_decides_between_two_classes():
    classifier, predicted = _small(), np.array([[0.7, 0.3], [0.2, 0.8]])
    with pytest.raises(ValueError, match=r"threshold=0.5 needs labels or 2 classes, not 3"):
        classifier.names(predicted, 0.5)
    classifier.info = dataclasses.replace(classifier.info, class_names=("no", "yes"))
    assert classifier.names(predicted) == ["no", "yes"]
    assert classifier.names(predicted, 0.2) == ["yes", "yes"]
    classifier.thresholds = {"yes": 0.9}
    assert classifier.names(predicted) == ["no", "no"]
    with pytest.raises(ValueError, match=r"threshold names \['no'\]; the labels are yes"):
        classifier.names(predicted, {"no": 0.2})


@pytest.mark.parametrize("pool", ["random", "strided_random", "tome"])
def test_lengths_of_the_bucket_change_nothing(raw, pool):
    classifier = _small(model__pool=pool)
    full = padded_inputs(classifier.info, {"id": 0, "inputs": raw[1]})
    inputs, masks = ({name: a[None] for name, a in arrays.items()} for arrays in full)
    expected = jax.jit(classifier.model.apply)({"params": classifier.params}, inputs, masks)
    short = classifier.logits([classifier.read(0, raw[1])])
    assert len(raw[1]["sight"]) <= 8 < classifier.info.modalities["sight"].length
    np.testing.assert_allclose(short, expected, rtol=1e-5, atol=1e-5)


def test_larger_patches_are_those_of_the_resized_model(raw):
    classifier = _small()
    full = padded_inputs(classifier.info, {"id": 0, "inputs": raw[1]})
    inputs, masks = ({name: a[None] for name, a in arrays.items()} for arrays in full)
    params = resize_params(classifier.model, classifier.params, 2)
    larger = with_stride(classifier.model, 2)
    logits = jax.jit(larger.apply)({"params": params}, inputs, masks)
    expected = scipy.special.softmax(logits, axis=-1)[0]
    probabilities = classifier.predict_proba(raw[1], stride=2)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(probabilities - classifier.predict_proba(raw[1])).max() > 1e-3
    assert classifier.predict(raw[1], stride=2) == synthetic.CLASSES[expected.argmax()]
    # Two for predict_proba; predict compiles nothing more.
    assert classifier.compiles == 2
    explained = classifier.explain(raw[1], stride=2)["sight"]
    assert explained.saliency.shape == (3,)
    assert {kept.stop - kept.start for (kept,) in explained.kept} <= {4, len(raw[1]["sight"]) % 4}


# Compilation.


def test_programs_are_compiled_once_for_each_bucket():
    classifier = _small()
    sight = np.zeros((12, 3))
    for length in range(3, 13):  # 4, 8, 12
        classifier.predict({"sight": sight[:length]})
    assert classifier.compiles == 3
    for count in range(1, 5):  # 2, 4
        classifier.predict({"sight": [sight] * count})
    assert classifier.compiles == 5
    classifier.predict({"sight": [sight] * 67})  # 64, and 3 of 4
    assert classifier.compiles == 6
    classifier.predict({"sight": sight}, k=2)  # As trained.
    assert classifier.compiles == 6
    classifier.predict({"sight": sight}, k=1)
    assert classifier.compiles == 7


def test_parts_of_other_packages_get_the_full_length():
    classifier = _small()
    model = classifier.model.clone(pool=POOLS["max"])
    classifier = Classifier(model, classifier.params, classifier.info)
    for length in range(1, 13):
        classifier.predict({"sight": np.zeros((length, 3))})
    assert classifier.compiles == 1


def test_more_examples_than_fit_at_once_keep_their_order(classifier, raw):
    many = (raw * 4)[:70]
    probabilities = classifier.predict_proba(_together(many))
    single = classifier.predict_proba(_together(raw))
    np.testing.assert_allclose(probabilities, np.tile(single, (4, 1))[:70], atol=1e-6)


# Forms of the inputs.


def test_arrays_lists_and_absent_modalities_are_equivalent(classifier, raw):
    sight, sound = np.ones((3, 6, 3)), np.ones((3, 4, 2), np.float32)
    expected = classifier.predict_proba({"sight": sight, "sound": sound})
    for other in (
        {"sight": sight.tolist(), "sound": [*sound]},
        {"sight": jax.numpy.asarray(sight), "sound": sound.astype(np.uint8)},
        {"sight": np.ma.array(sight), "sound": np.array([*sound, None], object)[:3]},
    ):
        np.testing.assert_array_equal(classifier.predict_proba(other), expected)
    alone = classifier.predict_proba({"sight": sight[0]})
    for other in (
        {"sight": sight[0], "sound": None},
        {"sight": sight[0].tolist(), "sound": np.zeros((0, 2))},
    ):
        np.testing.assert_array_equal(classifier.predict_proba(other), alone)
    mixed = classifier.predict_proba({"sight": [*sight], "sound": [None, sound[0], None]})
    np.testing.assert_allclose(mixed, [alone, expected[0], alone], atol=1e-6)


def test_images_of_bytes_may_be_smaller():
    info = DatasetInfo(
        modalities={"image": ModalitySpec((8, 6), 1, (4, 3))},
        class_names=("a", "b"),
        statistics={"image": Standardisation((120.0,), (60.0,))},
        num_examples={"train": 1},
    )
    model = SparseFusionTransformer(2, info.modalities, 8, 2, n_pre=0, n_post=1, k=2)
    classifier = Classifier(model, _random_params(model), info)
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 1), np.uint8)
    probabilities = classifier.predict_proba({"image": image})
    as_floats = classifier.predict_proba({"image": image.astype(np.float64)})
    np.testing.assert_array_equal(probabilities, as_floats)
    explanation = classifier.explain({"image": image})["image"]
    assert explanation.saliency.shape == (2, 2)
    boxes = {tuple((s.start, s.stop) for s in part) for part in explanation.kept}
    assert len(boxes) == 2
    assert boxes < {((a, b), (c, d)) for a, b in ((0, 4), (4, 7)) for c, d in ((0, 3), (3, 5))}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((3, 3)), "inputs is ndarray; expected a mapping from the name of each modality"),
        ({}, "inputs hold no modality; expected some of sight, sound"),
        ({"sight": None}, "inputs hold no modality"),
        ({"sihgt": np.zeros((3, 3))}, "unknown modality 'sihgt'; did you mean 'sight'? allowed"),
        ({"sight": np.zeros(3)}, "sight is an array of shape [3]; expected one example of shape"),
        ({"sight": np.zeros((1, 1, 3, 3))}, "[up to 12, 3], or many: a list of such"),
        ({"sight": [1.0, 2.0]}, "sight is a list of arrays of 0 axes; expected"),
        ({"sight": [[[1.0], [1.0, 2.0]]]}, "sight holds lists that are no array"),
        ({"sight": [[1.0], [1.0, 2.0]]}, "sight holds lists that are no array"),
        (
            {"sight": np.zeros((3, 4))},
            "example 0: sight is of shape [3, 4], expected [up to 12, 3]",
        ),
        ({"sight": np.zeros((13, 3))}, "example 0: sight is of shape [13, 3], expected [up to 12"),
        (
            {"sight": np.array([["a"] * 3])},
            "example 0: sight is strings of shape [1, 3]; the kind series",
        ),
        ({"sight": []}, "inputs hold no example: an empty batch has no prediction"),
        ({"sight": np.zeros((0, 12, 3))}, "inputs hold no example"),
        ({"sight": [np.ones((3, 3)), None]}, "example 1 has no modality; the model reads sight"),
        (
            {"sight": np.zeros((2, 3, 3)), "sound": np.zeros((3, 2))},
            "differ in their number of examples: sight 2 examples, sound one example without",
        ),
        (
            {"sight": [np.ones((3, 3)), np.full((3, 3), np.nan)]},
            "example 1: sight is not finite at step 0: [nan nan nan]",
        ),
    ],
)
def test_wrong_inputs_are_named(classifier, inputs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        classifier.predict(inputs)


def test_numbers_that_are_not_finite_are_treated_as_in_training(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    card = {name: {} for name in ("shapes", "splits", "padding", "known_releases")}
    card |= {"dataset": "d", "variant": "v", "task": "single_label", "class_names": [], "files": []}
    (tmp_path / "run" / "data_card.json").write_text(json.dumps(card | {"policy": "drop"}))
    classifier = sft_jax.load(tmp_path / "run")
    sight = np.arange(18.0).reshape(6, 3)
    bad = np.insert(sight, 2, np.inf, axis=0)
    chex.assert_trees_all_equal(
        classifier.read(0, {"sight": bad}), classifier.read(0, {"sight": sight})
    )


def test_values_that_look_standardised_are_warned_about(caplog, classifier):
    info = dataclasses.replace(
        classifier.info,
        statistics=classifier.info.statistics
        | {"sight": Standardisation((900.0,) * 3, (5.0,) * 3)},
    )
    again = Classifier(classifier.model, classifier.params, info)
    values = np.random.default_rng(0).normal(size=(12, 3))
    with caplog.at_level(logging.WARNING, "sft_jax"):
        again.read(0, {"sight": 900 + 5 * values})
        again.read(0, {"sight": np.zeros((12, 3))})
        classifier.read(0, {"sight": values})  # The training data is nearly standardised itself.
        assert caplog.messages == []
        again.read(0, {"sight": values})
        again.read(1, {"sight": values})
    (message,) = caplog.messages
    assert "sight has mean" in message
    assert "looks standardised already" in message


# Budget and explanation.


def test_any_budget_of_tokens_is_that_of_the_model(classifier, raw):
    example, logits = [classifier.read(0, raw[0])], []
    for k in (0, {"sight": 3, "sound": 1}):
        model = classifier.model.clone(k=k)
        other = Classifier(model, classifier.params, classifier.info)
        logits.append(classifier.logits(example, k))
        np.testing.assert_array_equal(logits[-1], other.logits(example))
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "k", "message"),
    [
        ({}, 9, "k=9 for modality 'sight', which has 6 tokens to choose from"),
        ({}, 1.5, "k=1.5; expected an integer, or one for each modality"),
        ({}, {"sight": 1}, r"k names \['sight'\], the modalities are"),
        ({"model__pool": "perceiver"}, 3, "'sight': pool='perceiver' has parameters for 2 tokens"),
        ({"model__pool": "none"}, 1, "pool='none' keeps all tokens"),
        (
            {"model__name": "late"},
            1,
            "k=1: LateFusion keeps all tokens; SparseFusionTransformer alone",
        ),
    ],
)
def test_a_budget_that_the_model_lacks_is_refused(raw, changes, k, message):
    with pytest.raises(ValueError, match=message):
        _small(**changes).predict(raw[0], k)


def test_kept_tokens_are_the_most_salient_steps(classifier, raw):
    explanations = classifier.explain(_together(raw), k=3)
    for example, explanation in zip(raw, explanations, strict=True):
        present = {name for name, values in example.items() if values is not None}
        assert explanation.keys() == present
        for name in present:
            patch, length = synthetic.MODALITIES[name].patch_size, len(example[name])
            tokens = -(-length // patch)
            saliency, kept = explanation[name].saliency, explanation[name].kept
            assert len(saliency) == synthetic.MODALITIES[name].num_tokens
            assert np.isfinite(saliency[:tokens]).all()
            assert np.isnan(saliency[tokens:]).all()
            order = np.argsort(-saliency[:tokens], kind="stable")[:3]
            expected = [(t * patch, min((t + 1) * patch, length)) for t in order]
            assert [(part.start, part.stop) for (part,) in kept] == expected
            assert all(len(example[name][part]) for part in kept)
    alone = classifier.explain(raw[0], k={"sight": 0, "sound": 1})
    assert (alone["sight"].kept, len(alone["sound"].kept)) == ((), 1)


@pytest.mark.parametrize("pool", POOLS)
def test_pools_that_select_no_tokens_are_not_explained(raw, pool):
    classifier = _small(model__pool=pool)
    if pool in SELECTING:
        kept = {name: len(own.kept) for name, own in classifier.explain(raw[0]).items()}
        # Two of each modality; or of all together, in the numbers that the scores ask for.
        assert sum(kept.values()) == 4
        assert kept["sight"] == 2 or pool == "joint_topk"
        return
    with pytest.raises(ValueError, match=f"pool '{pool}' selects no whole tokens; these do: attn_"):
        classifier.explain(raw[0])


def test_models_without_pools_are_not_explained(raw):
    message = "explain: LateFusion keeps every token; use SparseFusionTransformer with a pool"
    with pytest.raises(ValueError, match=message):
        _small(model__name="late").explain(raw[0])


def test_only_modalities_that_the_model_reads_count(classifier, raw):
    model = Unimodal(3, synthetic.MODALITIES, 8, 2, n_pre=1, n_post=0, modality="sight")
    alone = Classifier(model, _random_params(model), classifier.info)
    sight = raw[0]["sight"]
    expected = alone.predict_proba({"sight": sight})
    both = alone.predict_proba({"sight": sight, "sound": np.ones((3, 2))})
    np.testing.assert_array_equal(both, expected)
    with pytest.raises(ValueError, match="example 0 has no modality; the model reads sight"):
        alone.predict({"sound": np.ones((3, 2))})


# Loading.


def test_folders_that_are_no_run_are_named(tmp_path, workdir):
    with pytest.raises(RunDirectoryError, match="nowhere is not a run directory: it has no config"):
        sft_jax.load(tmp_path / "nowhere")
    SeedsDirectory.open(tmp_path / "seeds", dataclasses.replace(synthetic.config(), seeds=(0, 3)))
    with pytest.raises(RunDirectoryError, match=r"several seeds: give one of them, such as .*ed_0"):
        sft_jax.load(tmp_path / "seeds")
    shutil.copytree(workdir, tmp_path / "run")
    with pytest.raises(NoCheckpointError, match="no checkpoint '6'"):
        sft_jax.load(tmp_path / "run", 6)
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"config.json is damaged"):
        sft_jax.load(tmp_path / "run")


def test_damaged_checkpoints_are_named(tmp_path, workdir):
    shutil.copytree(workdir, tmp_path / "run")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    largest = max((p for p in files if "state" in p.parts), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(
        DamagedCheckpointError, match=r"best/5: .* has other bytes than were written"
    ):
        sft_jax.load(tmp_path / "run")


@pytest.mark.process
def test_loading_imports_neither_data_nor_optimiser(workdir):
    program = f"""
import sys
import numpy as np
import sft_jax
classifier = sft_jax.load({str(workdir)!r})
assert classifier.predict({{"sight": np.zeros((12, 3))}}) in classifier.info.class_names
print(*(name for name in sys.modules if "." not in name))
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    heavy = {
        "grain", "h5py", "matplotlib", "optax", "pandas", "sklearn", "tensorboardX", "tensorflow",
        "tensorflow_datasets", "torch",
    }  # fmt: skip
    assert set(done.stdout.split()) & heavy == set()


@pytest.mark.process
def test_a_missing_package_is_named_with_its_extra():
    program = "import sys; sys.modules['orbax'] = None; import sft_jax; sft_jax.load('run')"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "run needs the package orbax" in done.stderr
    assert "pip install 'sft_jax[predict]'" in done.stderr
