import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from sft_jax.data import dataset as dataset_module
from sft_jax.data import fingerprint, prepared, registry
from sft_jax.data.arrays import from_arrays
from sft_jax.data.dataset import (
    Dataset,
    DatasetInfo,
    Standardisation,
    compute_statistics,
)
from sft_jax.data.outline import Outline, outline
from sft_jax.data.registry import open_dataset
from sft_jax.data.sets.watch.entry import WatchData
from sft_jax.structs import ModalitySpec


@pytest.fixture
def config(data_dir):
    return WatchData(data_dir=data_dir)


@pytest.fixture(scope="module")
def dataset(data_dir):
    return open_dataset(WatchData(data_dir=data_dir))


def _example(number, length=6, real=4, label=0):
    rng = np.random.default_rng(number)
    mask = np.arange(length) < real
    values = rng.normal(3.0, 2.0, (length, 2)).astype(np.float32)
    return {"id": f"no{number}", "inputs": {"a": values}, "masks": {"a": mask}, "label": label}


def _dataset(examples, statistics=None, task="single_label", class_names=("no", "yes"), metrics=()):
    info = DatasetInfo(
        modalities={"a": ModalitySpec(length=6, features=2)},
        class_names=class_names,
        statistics=statistics or {"a": Standardisation(mean=(0.0, 0.0), std=(1.0, 1.0))},
        num_examples={"train": len(examples)},
        task=task,
        metrics=metrics,
    )
    return Dataset(info, {"train": examples}.__getitem__)


def _people(examples):
    return {int(example["id"][6:8]) for example in examples}


def test_no_person_is_in_two_splits(dataset):
    splits = {split: dataset.source(split) for split in ("train", "valid", "test")}
    assert {split: _people(examples) for split, examples in splits.items()} == {
        "train": {1, 2, 3, 4, 5, 6},
        "valid": {7},
        "test": {8, 9, 10},
    }
    assert dataset.info.num_examples == {split: len(people) for split, people in splits.items()}
    ids = [example["id"] for examples in splits.values() for example in examples]
    assert len(set(ids)) == len(ids) == 4397


def test_info_describes_the_examples(config):
    config = dataclasses.replace(config, patch_size=7)
    info = open_dataset(config).info
    assert info.class_names == ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
    spec = ModalitySpec(length=200, features=3, patch_size=7)
    assert info.modalities == {"accelerometer": spec, "gyroscope": spec}
    # Known without the data too.
    assert outline(config) == Outline(info.modalities, len(info.class_names), info.task)


def test_training_inputs_are_standardised(dataset):
    examples = dataset.source("train")
    for modality in ("accelerometer", "gyroscope"):
        steps = np.concatenate([e["inputs"][modality] for e in examples])
        assert steps.dtype == np.float32
        np.testing.assert_allclose(steps.mean(0, dtype=np.float64), 0, atol=1e-5)
        np.testing.assert_allclose(steps.std(0, dtype=np.float64), 1, atol=1e-5)


def test_statistics_are_of_the_training_people_alone(config, dataset):
    steps = {name: [] for name in dataset.info.modalities}
    people = [f"person_{person:02d}" for person in range(1, 7)]
    for record in registry.prepare_dataset(config).records(people):
        for name, values in record["inputs"].items():
            steps[name].append(values)
    for name, windows in steps.items():
        values = np.concatenate(windows).astype(np.float64)
        actual = dataset.info.statistics[name]
        np.testing.assert_allclose(actual.mean, values.mean(0), rtol=1e-6)
        np.testing.assert_allclose(actual.std, values.std(0), rtol=1e-6)
    others = dataclasses.replace(config, train_people=(1, 2))
    assert open_dataset(others).info.statistics != dataset.info.statistics


@pytest.fixture
def reads(monkeypatch):
    """Splits that are opened."""
    calls, read = [], prepared.PreparedData.records
    monkeypatch.setattr(
        prepared.PreparedData,
        "records",
        lambda self, splits, *options: calls.append([*splits]) or read(self, splits, *options),
    )
    return calls


def test_given_statistics_are_used(config, reads):
    raw = registry.prepare_dataset(config).records(["person_07"])[0]
    original = {
        name: Standardisation(mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))
        for name in ("accelerometer", "gyroscope")
    }
    reads.clear()
    dataset = open_dataset(config, original)
    example = dataset.source("valid")[0]
    dataset.source("valid")
    assert reads == [["person_07"]]
    assert dataset.info.statistics == original
    for name, values in raw["inputs"].items():
        expected = (values - np.array([1, 2, 3])) / np.array([2, 4, 8])
        np.testing.assert_array_equal(example["inputs"][name], np.float32(expected))


def test_a_split_is_decoded_once(config, reads):
    dataset = open_dataset(config)
    assert reads == []  # What it is standardised by has been computed in preparing it.
    dataset.source("valid")
    dataset.source("valid")
    assert reads == [["person_07"]]


def test_a_large_split_is_decoded_when_used(config, monkeypatch):
    held = open_dataset(config).source("valid")
    assert isinstance(held, tuple)
    monkeypatch.setattr(dataset_module, "IN_MEMORY_BYTES", 1000)
    source = open_dataset(config).source("valid")
    assert not isinstance(source, tuple)
    assert len(source) == len(held)
    for position in (0, 100, len(held) - 1):
        again = source[position]
        assert again["id"] == held[position]["id"]
        assert again["label"] == held[position]["label"]
        for name, values in held[position]["inputs"].items():
            np.testing.assert_array_equal(again["inputs"][name], values)
            np.testing.assert_array_equal(again["masks"][name], held[position]["masks"][name])


def test_info_survives_json_exactly(dataset):
    info = dataset.info
    values = info.to_json()
    text = json.dumps(values)
    assert json.loads(text) == values
    assert DatasetInfo.from_json(json.loads(text)) == info


def test_statistics_leave_padding_out():
    examples = [_example(0, real=4), _example(1, real=2), _example(2, real=0)]
    for example in examples:
        example["inputs"]["a"][~example["masks"]["a"]] = np.nan
    real = np.concatenate([e["inputs"]["a"][e["masks"]["a"]] for e in examples]).astype(np.float64)
    assert len(real) == 6
    statistics = compute_statistics(examples)["a"]
    np.testing.assert_allclose(statistics.mean, real.mean(0), rtol=1e-14)
    np.testing.assert_allclose(statistics.std, real.std(0), rtol=1e-14)


def test_statistics_are_accumulated_in_float64():
    examples = [_example(n) for n in range(2000)]
    for example in examples:
        example["inputs"]["a"] = example["inputs"]["a"] * 0.01 + np.float32(1000)
    real = np.concatenate([e["inputs"]["a"][e["masks"]["a"]] for e in examples])
    expected = real.astype(np.longdouble).std(0)
    np.testing.assert_allclose(compute_statistics(examples)["a"].std, expected, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_a_constant_feature_becomes_zero(value):
    examples = [_example(n) for n in range(100)]
    for example in examples:
        example["inputs"]["a"][:, 1] = value
    statistics = compute_statistics(examples)
    assert statistics["a"].std[1] == 1.0
    for example in _dataset(examples, statistics).source("train"):
        np.testing.assert_array_equal(example["inputs"]["a"][:, 1], 0.0)


def test_padding_becomes_zero_and_may_be_anything():
    example = _example(0, real=3)
    example["inputs"]["a"][3:] = np.inf
    before = example["inputs"]["a"].copy()
    (prepared,) = _dataset([example]).source("train")
    np.testing.assert_array_equal(prepared["inputs"]["a"][3:], 0.0)
    np.testing.assert_array_equal(prepared["inputs"]["a"][:3], before[:3])
    np.testing.assert_array_equal(example["inputs"]["a"], before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named(value):
    examples = [_example(0), _example(1)]
    examples[1]["inputs"]["a"][2, 1] = value
    for load in (lambda: compute_statistics(examples), lambda: _dataset(examples).source("train")):
        with pytest.raises(ValueError, match="example 'no1': a is not finite at step 2"):
            load()


def test_an_empty_split_is_named(config):
    object.__setattr__(config, "valid_people", ())  # WatchData itself would refuse.
    with pytest.raises(ValueError, match=r"split 'valid' has no examples: it is made of \[\]"):
        open_dataset(config)
    with pytest.raises(ValueError, match="split 'train' has no examples"):
        _dataset([]).source("train")


def test_an_unknown_split_is_named(dataset):
    with pytest.raises(ValueError, match="no split 'validation': there are train, valid, test"):
        dataset.source("validation")


def test_shapes_and_labels_must_be_those_of_the_info():
    too_long, other_features, bad_mask, bad_label, bad_type, other = (_example(n) for n in range(6))
    too_long["inputs"]["a"] = np.zeros((7, 2), np.float32)
    other_features["inputs"]["a"] = np.zeros((6, 3), np.float32)
    bad_mask["masks"]["a"] = np.ones(5, bool)
    bad_label["label"] = 2
    bad_type["masks"]["a"] = np.ones(6, np.int32)
    other["inputs"]["b"] = np.zeros((6, 2), np.float32)
    for example, message in (
        (too_long, r"'no0': a is of shape \[7, 2\], expected \[up to 6, 2\]"),
        (other_features, r"'no1': a is of shape \[6, 3\], expected \[up to 6, 2\]"),
        (bad_mask, r"'no2': mask of a is of shape \[5\], expected \[6\]"),
        (bad_label, "'no3': label 2 is not one of the 2"),
        (bad_type, "'no4': mask of a is int32"),
        (other, r"'no5': unknown modality 'b', known are \['a'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            _dataset([example]).source("train")


def test_a_short_example_is_padded_and_a_missing_modality_masked():
    short = {"id": "short", "inputs": {"a": np.ones((2, 2), np.float32)}, "label": 0}
    without = {"id": "without", "inputs": {}, "label": 1}
    prepared, absent = _dataset([short, without]).source("train")
    np.testing.assert_array_equal(prepared["inputs"]["a"], [[1, 1]] * 2 + [[0, 0]] * 4)
    np.testing.assert_array_equal(prepared["masks"]["a"], [True] * 2 + [False] * 4)
    np.testing.assert_array_equal(absent["inputs"]["a"], np.zeros((6, 2)))
    assert not absent["masks"]["a"].any()


@pytest.mark.parametrize(
    ("task", "label", "message"),
    [
        ("single_label", 1.0, "label 1.0 is not one of the 2 classes"),
        ("ordinal", True, "label True is not one of the 2 classes"),
        ("ordinal", np.array([0, 1]), r"label \[0, 1\] is not one of the 2 classes"),
        ("multi_label", 1, "label 1 is not an array of 2 numbers"),
        ("multi_label", np.zeros(3), "is not an array of 2 numbers"),
        ("multi_label", np.array(["a", "b"]), "is not an array of 2 numbers"),
        ("multi_label", np.array([1, 0.5]), "is not made of 0 and 1"),
        ("multi_label", np.array([1, np.nan]), "is not made of 0 and 1"),
        ("regression", np.zeros((2, 1)), "is not an array of 2 numbers"),
        ("regression", np.array([1, np.inf]), r"label \[1.0, inf\] is not finite"),
    ],
)
def test_labels_must_be_those_of_the_task(task, label, message):
    with pytest.raises(ValueError, match=f"example 'no0': .*{message}"):
        _dataset([_example(0, label=label)], task=task).source("train")


@pytest.mark.parametrize(
    ("task", "label"),
    [
        ("ordinal", np.int64(1)),
        ("multi_label", np.array([True, False])),
        ("multi_label", np.array([0, 1])),
        ("regression", np.array([-3, 0.5])),
    ],
)
def test_labels_of_the_task_are_kept(task, label):
    (prepared,) = _dataset([_example(0, label=label)], task=task).source("train")
    np.testing.assert_array_equal(prepared["label"], label)


def test_the_task_is_saved_and_was_once_single_label():
    info = _dataset([_example(0)], task="regression").info
    values = json.loads(json.dumps(info.to_json()))
    assert DatasetInfo.from_json(values) == info
    assert values.pop("task") == "regression"
    assert DatasetInfo.from_json(values) == dataclasses.replace(info, task="single_label")
    with pytest.raises(ValueError, match="task='multi' is not one of single_label, multi_label"):
        dataclasses.replace(info, task="multi")


@pytest.mark.parametrize(
    ("task", "count", "metrics"),
    [
        ("single_label", 7, ("sentiment", "ranking")),
        ("single_label", 2, ("ranking",)),
        ("ordinal", 7, ("sentiment",)),
        ("regression", 1, ("sentiment",)),
    ],
)
def test_metrics_are_saved_but_not_compared(task, count, metrics):
    info = dataclasses.replace(
        _dataset([_example(0)]).info, task=task, class_names=tuple("abcdefg"[:count])
    )
    asking = dataclasses.replace(info, metrics=metrics)
    values = json.loads(json.dumps(asking.to_json()))
    assert DatasetInfo.from_json(values).metrics == metrics
    assert asking == info
    assert info.metrics == ()
    del values["metrics"]
    assert DatasetInfo.from_json(values).metrics == ()


@pytest.mark.parametrize(
    ("task", "count", "metrics", "message"),
    [
        ("single_label", 2, ("top5",), "metrics: 'top5' is not one of ranking, sentiment"),
        (
            "ordinal",
            2,
            ("ranking",),
            "'ranking' needs the task single_label; the task is 'ordinal'",
        ),
        (
            "multi_label",
            7,
            ("sentiment",),
            "'sentiment' needs 7 classes, single_label or ordinal, ",
        ),
        ("single_label", 6, ("sentiment",), "the task is 'single_label', of 6 class_names"),
        ("regression", 7, ("sentiment",), "the task is 'regression', of 7 class_names"),
    ],
)
def test_metrics_that_are_not_of_such_labels_are_refused(task, count, metrics, message):
    info = _dataset([_example(0)]).info
    names = tuple("abcdefg"[:count])
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(info, task=task, class_names=names, metrics=metrics)


def test_a_dataset_takes_the_form_of_another():
    learned = _dataset([_example(0)]).info
    learned = dataclasses.replace(
        learned,
        modalities={"a": ModalitySpec(length=9, features=2, patch_size=3)},
        statistics={"a": Standardisation(mean=(1.0, 2.0), std=(2.0, 4.0))},
    )
    own = _dataset([_example(1), _example(2)], metrics=("ranking",))
    like = own.like(learned)
    assert like.info == dataclasses.replace(learned, num_examples={"train": 2})
    assert like.info.metrics == ("ranking",)
    for example, before in zip(like.source("train"), own.source("train"), strict=True):
        expected = (before["inputs"]["a"][:4] - np.float32([1, 2])) / np.float32([2, 4])
        np.testing.assert_array_equal(example["inputs"]["a"][:4], expected)
        np.testing.assert_array_equal(example["inputs"]["a"][4:], np.zeros((5, 2)))
        np.testing.assert_array_equal(example["masks"]["a"], np.arange(9) < 4)
    shorter = dataclasses.replace(learned, modalities={"a": ModalitySpec(5, 2)})
    with pytest.raises(ValueError, match=r"'no1': a is of shape \[6, 2\], expected \[up to 5, 2\]"):
        own.like(shorter).source("train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modalities": {"a": ModalitySpec((6, 2), 2)}}, r"'a': \(1, 2\)}, expected {'a': \(2, 2"),
        ({"task": "ordinal"}, "task of the dataset: single_label, expected ordinal"),
        ({"class_names": ("yes", "no")}, r"class_names of the dataset: \('no', 'yes'\), expected"),
    ],
)
def test_a_dataset_of_another_kind_is_not_like_it(changes, message):
    own = _dataset([_example(0)])
    with pytest.raises(ValueError, match=message):
        own.like(dataclasses.replace(own.info, **changes))


def test_sentiment_is_from_minus_3_to_3():
    examples = [_example(i, label=np.array([value])) for i, value in enumerate((-3.0, 3.0))]
    examples.append(_example(2, label=np.array([3.2])))
    dataset = _dataset(examples, task="regression", class_names=("sentiment",))
    assert len(dataset.source("train")) == 3
    dataset = _dataset(
        examples, task="regression", class_names=("sentiment",), metrics=("sentiment",)
    )
    with pytest.raises(ValueError, match=r"'no2': label \[3.2\] is not from -3 to 3"):
        dataset.source("train")


def test_a_model_must_fit_the_task():
    one_class = {"single_label", "ordinal"}
    for data_task in (*one_class, "multi_label", "regression"):
        info = _dataset([_example(0)], task=data_task).info
        allowed = one_class if data_task in one_class else {data_task}
        for task in (*one_class, "multi_label", "regression"):
            if task in allowed:
                info.check_task(task)
                continue
            with pytest.raises(ValueError, match=f"model.task='{task}' does not fit .*{data_task}"):
                info.check_task(task)


def test_statistics_must_fit_the_modalities(config):
    wrong = {"accelerometer": Standardisation(mean=(0.0,), std=(1.0,))}
    with pytest.raises(ValueError, match="statistics are given for features"):
        open_dataset(config, wrong)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.0,), (1.0, 1.0)), ((0.0,), (0.0,)), ((float("nan"),), (1.0,))]
)
def test_statistics_must_be_usable(mean, std):
    with pytest.raises(ValueError, match="deviations"):
        Standardisation(mean=mean, std=std)


def test_a_modality_without_a_step_cannot_be_standardised():
    with pytest.raises(ValueError, match="no example has any step of a"):
        compute_statistics([_example(0, real=0)])


def test_a_patch_must_fit_the_window(config):
    with pytest.raises(ValueError, match="patch_size=201 exceeds length=200"):
        open_dataset(dataclasses.replace(config, patch_size=201))


@pytest.mark.process
def test_importing_is_cheap_and_quiet():
    program = "import sys, sft_jax.data.dataset; sys.exit('tensorflow_datasets' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_fingerprint_is_of_all_that_a_model_is_given():
    inputs = {"x": np.arange(60.0).reshape(6, 5, 2), "y": np.ones((6, 3, 1))}
    labels, before = np.arange(6) % 2, dict(inputs)

    def digest(inputs=inputs, labels=labels, names=("a", "b")):
        splits = ("train", "valid", "test")
        original = {split: inputs if split == "test" else before for split in splits}
        reported = {split: labels if split == "test" else np.arange(6) % 2 for split in splits}
        return from_arrays(original, reported, names).fingerprint("test")

    same = {name: values.astype(np.float32) for name, values in inputs.items()}
    assert digest() == digest(same) == digest(names=("c", "d"))
    changed = np.copy(inputs["x"])
    changed[3, 2, 1] += 1
    missing = [*inputs["y"][:5], None]
    others = {
        digest(inputs | {"x": changed}),
        digest(inputs | {"y": missing}),
        digest(labels=1 - labels),
    }
    assert len(others | {digest()}) == 4


def test_a_large_split_is_sampled(monkeypatch):
    monkeypatch.setattr(fingerprint, "MOST_EXAMPLES", 3)
    seen = []

    class Examples:
        def __len__(self):
            return 101

        def __getitem__(self, i):
            seen.append(i)
            return {"id": str(i), "label": 0, "inputs": {}}

    fingerprint.fingerprint(Examples())
    assert seen == [0, 50, 100]
