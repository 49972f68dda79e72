"""The metric that selects the best checkpoint is found by its name, with its direction."""

import numpy as np
import pytest

from sft_jax.data.metric_families import FAMILIES, MetricFamily
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.selection import BINARY_METRICS, TASK_METRICS, check_metric, find_metric
from sft_jax.structs import CLASS_TASKS

OWN = MetricFamily(lambda predictions, names: {"cost": 1.0}, better={"cost": "lower"})
OWN_PATH = f"{__name__}:OWN"


def _result(task, count, families=()):
    random = np.random.default_rng(0)
    if task in CLASS_TASKS:
        labels = np.arange(14) % count
    else:
        labels = random.integers(0, 2, size=(14, count)).astype(np.float32)
    logits = random.normal(size=(14, count)).astype(np.float32)
    predictions = Predictions(np.arange(14), labels, logits, np.ones(14, np.float32), task)
    return task_metrics(predictions, [f"class{i}" for i in range(count)], families)


def _floats(values):
    return {name for name, value in values.items() if isinstance(value, float)}


@pytest.mark.parametrize("task", TASK_METRICS)
def test_every_metric_of_a_task_has_a_direction(task):
    assert _floats(_result(task, 3)) == set(TASK_METRICS[task])
    binary = set(BINARY_METRICS) if task in CLASS_TASKS else set()
    assert _floats(_result(task, 2)) == set(TASK_METRICS[task]) | binary


@pytest.mark.parametrize(
    ("family", "task"), [("ranking", "single_label"), ("sentiment", "ordinal")]
)
def test_every_metric_of_a_family_has_a_direction(family, task):
    assert _floats(_result(task, 7, [family])[family]) == set(FAMILIES[family].better)


@pytest.mark.parametrize(
    ("task", "count", "name", "full", "better"),
    [
        ("single_label", 2, "auroc", "roc_auc", "higher"),
        ("single_label", 2, "average_precision", "average_precision", "higher"),
        ("multi_label", 5, "average_precision", "macro_average_precision", "higher"),
        ("ordinal", 5, "kappa", "quadratic_weighted_kappa", "higher"),
        ("regression", 1, "mae", "mae", "lower"),
        ("regression", 1, "sentiment.corr", "sentiment.corr", "higher"),
        ("multi_label", 3, f"{OWN_PATH}.cost", f"{OWN_PATH}.cost", "lower"),
    ],
)
def test_a_metric_is_found_with_its_direction(task, count, name, full, better):
    selection = find_metric(task, name, count)
    assert (selection.name, selection.better) == (full, better)


@pytest.mark.parametrize(
    ("task", "count", "name", "message"),
    [
        ("single_label", None, "f1", "'f1' is not a metric of model.task='single_label'; allowed"),
        ("single_label", 3, "auroc", "'auroc' needs 2 classes; there are 3; allowed are loss, acc"),
        ("multi_label", 3, "rmse", "'multi_label' but of regression; allowed are loss, accuracy"),
        ("single_label", None, "ranking.mAp", "'ranking' has no metric 'mAp' .*top1, top5, mAP,"),
        ("single_label", None, "rank.mAP", "metrics: 'rank' is not one of ranking, sentiment"),
        ("ordinal", 3, "ranking.mAP", "best_metric='ranking.mAP': .* needs the task single_label"),
        ("ordinal", 3, f"{OWN_PATH}.gain", "has no metric 'gain' with a direction; .* are cost"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(task, count, name, message):
    with pytest.raises(ValueError, match=message):
        find_metric(task, name, count)


def test_a_config_does_not_import_families_of_other_packages():
    check_metric("single_label", "no_such_package:F.cost")
    with pytest.raises(ValueError, match="there is no module 'no_such_package'"):
        find_metric("single_label", "no_such_package:F.cost")
