"""Classical models on hand-made features: the features by hand, and the choice of settings."""

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.tree import DecisionTreeClassifier

from benchmarks import classical, classical_features
from sft_jax.data.arrays import from_arrays
from sft_jax.evaluation.metrics import task_metrics

SPLITS = ("train", "valid", "test")


def _dataset(inputs, labels, names, **options):
    """A dataset whose splits hold the same examples."""
    return from_arrays(
        dict.fromkeys(SPLITS, inputs), dict.fromkeys(SPLITS, labels), names, **options
    )


def test_statistics_are_of_the_real_steps_of_all_channels():
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(steps, 2)) for steps in (3, 5, 4)]
    other = [rng.normal(size=(6, 1)), None, rng.normal(size=(6, 1))]
    dataset = _dataset({"a": rows, "b": other}, [0, 1, 1], ("no", "yes"))
    table = classical_features.features(dataset, "train")
    assert table.shape == (3, 18)
    for i, example in enumerate(dataset.source("train")):
        a, b = example["inputs"]["a"][: len(rows[i])], example["inputs"]["b"]
        expected = [
            [*statistic(a), *(statistic(b) if other[i] is not None else [np.nan])]
            for statistic in (
                lambda x: x.mean(0),
                lambda x: x.std(0),
                lambda x: x.min(0),
                lambda x: x.max(0),
                lambda x: np.quantile(x, 0.25, axis=0),
                lambda x: np.quantile(x, 0.75, axis=0),
            )
        ]
        np.testing.assert_allclose(table[i], np.ravel(expected), rtol=1e-6)


def test_events_are_summarised_by_type():
    events = np.array([[2, 0, 5], [1, 0, 3], [1, 2, 7], [2, 0, 1.0]])
    last, mean, least, most, count = classical_features.by_type(events, 4).reshape(5, 4)
    nan = np.nan
    np.testing.assert_array_equal(last, [1, nan, 7, nan])  # The later row of equal times.
    np.testing.assert_array_equal(mean, [3, nan, 7, nan])
    np.testing.assert_array_equal(least, [1, nan, 7, nan])
    np.testing.assert_array_equal(most, [5, nan, 7, nan])
    np.testing.assert_array_equal(count, [3, 0, 1, 0])
    nothing = classical_features.by_type(events[:0], 4)
    assert np.isnan(nothing[:16]).all()
    assert not nothing[16:].any()


def test_pixels_are_averaged_over_blocks():
    image = np.random.default_rng(0).normal(size=(40, 20, 2))
    rows = classical_features.blocks(image).reshape(14, 10, 2)
    np.testing.assert_allclose(rows[2, 3], image[6:9, 6:8].mean((0, 1)))
    np.testing.assert_allclose(rows[13, 9], image[39:, 18:].mean((0, 1)))  # The rest of an axis.
    small = np.arange(12.0).reshape(3, 4, 1)
    np.testing.assert_array_equal(classical_features.blocks(small), np.arange(12.0))


def test_other_kinds_have_columns_and_counts():
    inputs = {
        "table": [np.array([1.0, 2.0]), None],
        "words": [np.array([2, 0, 2]), np.array([1])],
        "image": [np.zeros((2, 2)), None],
    }
    kinds = {"table": "vector", "words": "tokens", "image": "image"}
    dataset = _dataset(inputs, [0, 1], ("no", "yes"), kinds=kinds, standardise={"table": False})
    rows = classical_features.features(dataset, "valid")
    modalities = [*dataset.info.modalities]
    assert modalities == ["table", "words", "image"]
    np.testing.assert_array_equal(rows[0], [1, 2, 1, 0, 2, 0, 0, 0, 0])
    np.testing.assert_array_equal(rows[1], [np.nan] * 2 + [0, 1, 0] + [np.nan] * 4)


def _stays(count, seed=0):
    """Stays whose class shows in the last value of type 1; some lack type 0 or everything."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    stays = []
    for i, label in enumerate(labels):
        times = np.sort(rng.uniform(0, 48, 6))
        types = rng.integers(0, 3, 6) if i % 3 else np.ones(6)
        values = rng.normal(size=6)
        values[np.flatnonzero(types == 1)[-1:]] = 4 * label - 2
        stays.append(np.stack([times, types, values], 1) if i != 7 else None)
    return {"events": stays, "age": rng.normal(size=(count, 1))}, labels


@pytest.fixture(scope="module")
def stays():
    inputs, labels = _stays(80)
    kinds = {"events": "events", "age": "vector"}
    names = ("alive", "dead")
    return _dataset(inputs, labels, names, kinds=kinds, vocabulary={"events": 4})


@pytest.mark.parametrize("method", ["logistic regression", "gradient boosting"])
def test_events_with_gaps_are_classified(stays, method, monkeypatch):
    own = classical.METHODS[method]
    short = [{**settings, "max_iter": 20} for settings in own.grid[:2] if "C" not in settings]
    monkeypatch.setattr(
        classical, "METHODS", {method: classical.Method(own.make, short or own.grid[:2])}
    )
    result = classical.tune(stays, method, 0)
    assert result.metric == "roc_auc"
    predictions = result.predictions["test"]
    assert result.metrics["test"] == task_metrics(predictions, ("alive", "dead"))
    assert result.metrics["test"]["roc_auc"] > 0.85
    assert predictions.logits.shape == (80, 2)
    np.testing.assert_allclose(np.exp(predictions.logits).sum(1), 1)
    true = predictions.logits[np.arange(80), predictions.labels]
    np.testing.assert_allclose(predictions.loss, -true, rtol=1e-5, atol=1e-6)
    assert predictions.ids[0] == "test/0"


def _tree(settings, seed):
    if settings["depth"] == 0:
        return DummyClassifier()
    return DecisionTreeClassifier(max_depth=settings["depth"], random_state=seed)


@pytest.fixture
def trees(monkeypatch):
    method = classical.Method(_tree, [{"depth": 0}, {"depth": 5}, {"depth": 6}])
    monkeypatch.setattr(classical, "METHODS", {"trees": method})


def test_the_best_settings_in_validation_are_taken(stays, trees):
    result = classical.tune(stays, "trees", 0, splits=("valid",))
    values = [row["value"] for row in result.tried]
    assert result.settings == {"depth": 5}  # The first of equals.
    assert values[0] == 0.5
    assert values[1] == result.metrics["valid"]["roc_auc"] > 0.5
    assert [*result.predictions] == ["valid"]
    by_loss = classical.tune(stays, "trees", 0, splits=(), metric="loss")
    losses = [row["value"] for row in by_loss.tried]
    assert by_loss.settings["depth"] == [0, 5, 6][losses.index(min(losses))]


def test_each_label_has_a_model_of_its_own(trees):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 12, 1))
    labels = np.stack([values.mean((1, 2)) > 0, np.ones(40), values.max((1, 2)) > 1.5], 1)
    inputs, names = {"a": values}, ("high", "always", "peak")
    dataset = _dataset(inputs, labels.astype(float), names, task="multi_label")
    result = classical.tune(dataset, "trees", 0, splits=("test",))
    assert result.metric == "macro_average_precision"
    metrics = result.metrics["test"]
    assert metrics["macro_average_precision"] == metrics["exact_match"] == 1
    assert metrics["per_label"]["always"]["average_precision"] is None
    np.testing.assert_allclose(result.predictions["test"].logits[:, 1], np.log(41))


def test_a_class_without_training_examples_is_never_predicted(trees):
    values = np.arange(12.0)[:, None, None]
    labels = {"train": np.arange(12) % 2 * 2, "valid": np.arange(12) % 3}
    inputs = {split: {"a": values} for split in labels}
    dataset = from_arrays(inputs, labels, ("x", "y", "z"))
    result = classical.tune(dataset, "trees", 0, splits=("valid",))
    assert result.metric == "accuracy"
    logits = result.predictions["valid"].logits
    assert logits.shape == (12, 3)
    assert {*logits.argmax(1)} <= {0, 2}
    assert (logits[:, 1] == -30).all()


def test_numbers_are_refused(trees):
    numbers = np.arange(4.0)[:, None]
    dataset = _dataset({"a": numbers[:, None]}, numbers, ("x",), task="regression")
    with pytest.raises(ValueError, match="task='regression' has no classical model"):
        classical.tune(dataset, "trees", 0)


def test_baselines_keep_the_settings_of_scikit_learn(monkeypatch):
    values = np.random.default_rng(0).normal(size=(30, 5, 1))
    dataset = _dataset({"a": values}, (values.mean((1, 2)) > 0).astype(int), ("x", "y"))
    for name in ("logistic regression", "random forest"):
        own, settings = classical.METHODS[name], classical.METHODS[name].grid[0]
        model = own.make(settings, 0)
        model = model[-1] if hasattr(model, "steps") else model
        default = type(model)().get_params()
        assert settings.items() <= default.items()
    forest = classical.METHODS["random forest"]
    few = classical.Method(lambda s, seed: forest.make(s, seed).set_params(n_estimators=3), [{}])
    monkeypatch.setattr(classical, "METHODS", {**classical.METHODS, "random forest": few})
    results = classical.baselines(dataset, 0)
    assert {name: row["n_examples"] for name, row in results.items()} == {
        "logistic regression": 30,
        "random forest": 30,
    }
    assert results["logistic regression"]["accuracy"] > 0.9


def test_an_undefined_metric_is_named(trees):
    values = np.arange(8.0)[:, None, None]
    labels = {"train": np.arange(8) % 2, "valid": np.zeros(8, int)}
    dataset = from_arrays({split: {"a": values} for split in labels}, labels, ("x", "y"))
    with pytest.raises(ValueError, match="roc_auc is undefined in the validation split"):
        classical.tune(dataset, "trees", 0, splits=())
