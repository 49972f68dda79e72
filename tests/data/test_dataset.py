"""Descriptions of datasets, and their examples."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from small_examples import make_dataset, make_example

from sft_jax.data.dataset import (
    DatasetInfo,
    Standardisation,
    compute_statistics,
)
from sft_jax.structs import ModalitySpec


def test_padding_becomes_zero_and_may_be_anything():
    example = make_example(0, real=3)
    example["inputs"]["a"][3:] = np.inf
    before = example["inputs"]["a"].copy()
    (prepared,) = make_dataset([example]).source("train")
    np.testing.assert_array_equal(prepared["inputs"]["a"][3:], 0.0)
    np.testing.assert_array_equal(prepared["inputs"]["a"][:3], before[:3])
    np.testing.assert_array_equal(example["inputs"]["a"], before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named(value):
    examples = [make_example(0), make_example(1)]
    examples[1]["inputs"]["a"][2, 1] = value
    for load in (
        lambda: compute_statistics(examples),
        lambda: make_dataset(examples).source("train"),
    ):
        with pytest.raises(ValueError, match="example 'no1': a is not finite at step 2"):
            load()


def test_shapes_and_labels_must_be_those_of_the_info():
    too_long, other_features, bad_mask, bad_label, bad_type, other = (
        make_example(n) for n in range(6)
    )
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
            make_dataset([example]).source("train")


def test_a_short_example_is_padded_and_a_missing_modality_masked():
    short = {"id": "short", "inputs": {"a": np.ones((2, 2), np.float32)}, "label": 0}
    without = {"id": "without", "inputs": {}, "label": 1}
    prepared, absent = make_dataset([short, without]).source("train")
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
        make_dataset([make_example(0, label=label)], task=task).source("train")


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
    (prepared,) = make_dataset([make_example(0, label=label)], task=task).source("train")
    np.testing.assert_array_equal(prepared["label"], label)


def test_the_task_is_saved_and_was_once_single_label():
    info = make_dataset([make_example(0)], task="regression").info
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
        make_dataset([make_example(0)]).info,
        task=task,
        class_names=tuple("abcdefg"[:count]),
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
    info = make_dataset([make_example(0)]).info
    names = tuple("abcdefg"[:count])
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(info, task=task, class_names=names, metrics=metrics)


def test_a_dataset_takes_the_form_of_another():
    learned = make_dataset([make_example(0)]).info
    learned = dataclasses.replace(
        learned,
        modalities={"a": ModalitySpec(length=9, features=2, patch_size=3)},
        statistics={"a": Standardisation(mean=(1.0, 2.0), std=(2.0, 4.0))},
    )
    own = make_dataset([make_example(1), make_example(2)], metrics=("ranking",))
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
        (
            {"modalities": {"a": ModalitySpec((6, 2), 2)}},
            r"'a': \('series', 1, 2\)}, expected {'a': \('image', 2, 2",
        ),
        ({"task": "ordinal"}, "task of the dataset: single_label, expected ordinal"),
        ({"class_names": ("yes", "no")}, r"class_names of the dataset: \('no', 'yes'\), expected"),
    ],
)
def test_a_dataset_of_another_kind_is_not_like_it(changes, message):
    own = make_dataset([make_example(0)])
    with pytest.raises(ValueError, match=message):
        own.like(dataclasses.replace(own.info, **changes))


def test_sentiment_is_from_minus_3_to_3():
    examples = [make_example(i, label=np.array([value])) for i, value in enumerate((-3.0, 3.0))]
    examples.append(make_example(2, label=np.array([3.2])))
    dataset = make_dataset(examples, task="regression", class_names=("sentiment",))
    assert len(dataset.source("train")) == 3
    dataset = make_dataset(
        examples, task="regression", class_names=("sentiment",), metrics=("sentiment",)
    )
    with pytest.raises(ValueError, match=r"'no2': label \[3.2\] is not from -3 to 3"):
        dataset.source("train")


def test_a_model_must_fit_the_task():
    one_class = {"single_label", "ordinal"}
    for data_task in (*one_class, "multi_label", "regression"):
        info = make_dataset([make_example(0)], task=data_task).info
        allowed = one_class if data_task in one_class else {data_task}
        for task in (*one_class, "multi_label", "regression"):
            if task in allowed:
                info.check_task(task)
                continue
            with pytest.raises(ValueError, match=f"model.task='{task}' does not fit .*{data_task}"):
                info.check_task(task)


@pytest.mark.process
def test_importing_is_cheap_and_quiet():
    program = (
        "import sys, sft_jax.config, sft_jax.data.registry"
        "\nsys.exit(bool({'tensorflow_datasets', 'grain', 'h5py'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
