"""Families of metrics are found by name or import path, and refuse other labels."""

import numpy as np
import pytest

from sft_jax.data.arrays import from_arrays
from sft_jax.data.metric_families import MetricFamily, check_family, load_family

OWN = MetricFamily(
    lambda predictions, names: {},
    accepts=lambda task, count: task != "ordinal",
    needs="labels without order",
    largest=2.0,
)
OWN_PATH = f"{__name__}:OWN"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("top5", "metrics: 'top5' is not one of ranking, sentiment, nor an import path"),
        ("no_such_package:F", "metrics='no_such_package:F': there is no module"),
        (
            f"{__name__}:OWN_PATH",
            r"'test_metric_families:OWN_PATH' is a str; expected a .*MetricFamily",
        ),
    ],
)
def test_an_unknown_family_is_named(name, message):
    with pytest.raises(ValueError, match=message):
        load_family(name)


@pytest.mark.parametrize(
    ("family", "task", "count"),
    [
        ("ranking", "single_label", 2),
        ("sentiment", "single_label", 7),
        ("sentiment", "ordinal", 7),
        ("sentiment", "regression", 1),
    ],
)
def test_families_accept_their_labels(family, task, count):
    check_family(family, task, count)


@pytest.mark.parametrize(
    ("family", "task", "count", "message"),
    [
        ("ranking", "ordinal", 2, "'ranking' needs the task single_label; the task is 'ordinal'"),
        ("sentiment", "multi_label", 7, "'sentiment' needs 7 classes, single_label or ordinal, "),
        ("sentiment", "single_label", 6, "the task is 'single_label', of 6 class_names"),
        ("sentiment", "regression", 7, "the task is 'regression', of 7 class_names"),
        (OWN_PATH, "ordinal", 2, ":OWN' needs labels without order; the task is 'ordinal'"),
    ],
)
def test_families_refuse_other_labels(family, task, count, message):
    with pytest.raises(ValueError, match=message):
        check_family(family, task, count)


def _dataset(task, labels, metrics):
    inputs = {"a": np.zeros((3, 4, 1), np.float32)}
    splits = {"train": inputs, "valid": inputs}
    names = ("x", "y") if task == "ordinal" else ("x",)
    return from_arrays(splits, dict.fromkeys(splits, labels), names, task=task, metrics=metrics)


def test_a_dataset_of_arrays_checks_its_families():
    assert _dataset("regression", np.zeros((3, 1)), [OWN_PATH]).info.metrics == (OWN_PATH,)
    with pytest.raises(ValueError, match="needs labels without order"):
        _dataset("ordinal", np.array([0, 1, 1]), [OWN_PATH])


def test_a_family_limits_the_numbers_to_predict():
    dataset = _dataset("regression", np.array([[2.0], [-2.0], [2.5]]), [OWN_PATH])
    with pytest.raises(ValueError, match=r"label \[2.5\] is not from -2 to 2"):
        dataset.source("train")
