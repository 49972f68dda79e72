"""Losses against optax, scores by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sft_jax.ops.losses import (
    LOSSES,
    SCORE_NAMES,
    cross_entropy,
    example_losses,
    example_scores,
    loss_name,
)

LOGITS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32) * 5


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_agrees_with_optax(smoothing):
    labels = jnp.asarray([0, 2, 1, 1])
    targets = optax.smooth_labels(jax.nn.one_hot(labels, 3), smoothing)
    expected = optax.softmax_cross_entropy(LOGITS, targets)
    actual = cross_entropy(jnp.asarray(LOGITS), labels, smoothing)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_class_out_of_range_gives_nan_alone():
    loss = cross_entropy(jnp.asarray(LOGITS), jnp.asarray([-1, 0, 3, 2]))
    assert np.isnan(loss).tolist() == [True, False, True, False]


def test_huge_logits_stay_finite():
    loss = cross_entropy(jnp.asarray([[1e30, 0.0], [0.0, 1e4]]), jnp.asarray([0, 0]))
    np.testing.assert_allclose(loss, [0, 1e4])


LABELS = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 0.25, 1]], np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_multi_label_is_the_mean_of_binary_cross_entropies(smoothing):
    targets = LABELS * (1 - smoothing) + smoothing / 2
    expected = optax.sigmoid_binary_cross_entropy(LOGITS, targets).mean(axis=-1)
    actual = example_losses("multi_label", jnp.asarray(LOGITS), LABELS, smoothing)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_label_outside_0_to_1_gives_nan_alone():
    labels = np.array([[1, 0, 1.5], [0, 0, 0], [np.nan, 0, 0], [-1, 0, 0]], np.float32)
    loss = example_losses("multi_label", jnp.asarray(LOGITS), labels)
    assert np.isnan(loss).tolist() == [True, False, True, True]


def test_huge_logits_of_labels_stay_finite():
    logits, labels = jnp.asarray([[1e30, -1e30], [1e4, 0.0]]), jnp.asarray([[1.0, 0], [0, 1]])
    loss, gradient = jax.value_and_grad(
        lambda logits: example_losses("multi_label", logits, labels).sum()
    )(logits)
    np.testing.assert_allclose(loss, (1e4 + np.log(2)) / 2)
    np.testing.assert_allclose(gradient, [[0, 0], [0.5, -0.25]], atol=1e-7)


def test_regression_is_the_mean_of_squares():
    actual = example_losses("regression", jnp.asarray(LOGITS), LABELS)
    np.testing.assert_allclose(actual, ((LOGITS - LABELS) ** 2).mean(axis=-1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"smoothing=0.1 must be 0 for regression"):
        example_losses("regression", jnp.asarray(LOGITS), LABELS, 0.1)


@pytest.mark.parametrize("task", ["single_label", "ordinal"])
def test_one_class_of_several_takes_cross_entropy(task):
    labels = np.array([0, 2, 1, 1])
    actual = example_losses(task, jnp.asarray(LOGITS), labels, 0.1)
    np.testing.assert_array_equal(actual, cross_entropy(jnp.asarray(LOGITS), labels, 0.1))


def test_scores_by_hand():
    outputs = np.array([[2.0, -1.0], [-1.0, 3.0]], np.float32)
    class_scores = example_scores("single_label", outputs, np.array([0, 0]))
    np.testing.assert_array_equal(class_scores, [1, 0])
    np.testing.assert_array_equal(
        example_scores("ordinal", outputs, np.array([0, 0])), class_scores
    )
    numbers = np.array([[1, 0], [1, 0]], np.float32)
    np.testing.assert_array_equal(example_scores("multi_label", outputs, numbers), [1, 0])
    np.testing.assert_array_equal(example_scores("regression", outputs, numbers), [1, 2.5])
    assert SCORE_NAMES["regression"] == "mae"


def test_focal_loss_is_cross_entropy_weighted_by_the_miss():
    labels = jnp.asarray([0, 2, 1, 5])
    plain = cross_entropy(jnp.asarray(LOGITS), labels)
    focal = example_losses("ordinal", jnp.asarray(LOGITS), labels, loss="focal")
    np.testing.assert_allclose(focal, (1 - np.exp(-plain)) ** 2 * plain, rtol=1e-4)
    assert np.isnan(focal).tolist() == [False, False, False, True]


def test_losses_of_a_regression_agree_with_optax():
    outputs = jnp.asarray(LOGITS)
    huber = example_losses("regression", outputs, LABELS, loss="huber")
    np.testing.assert_allclose(huber, optax.huber_loss(LOGITS, LABELS).mean(axis=-1), rtol=1e-5)
    absolute = example_losses("regression", outputs, LABELS, loss="absolute_error")
    np.testing.assert_allclose(absolute, abs(LOGITS - LABELS).mean(axis=-1), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_a_finite_gradient_at_extreme_outputs(name):
    (task, *_) = LOSSES[name].tasks
    labels = np.array([0, 1]) if task == "single_label" else np.array([[0.0, 1], [1, 0]])
    outputs = jnp.asarray([[1e4, -1e4], [0.0, 0.0]])
    gradient = jax.grad(lambda a: example_losses(task, a, labels, loss=name).sum())(outputs)
    assert np.isfinite(gradient).all()


def test_the_usual_loss_of_a_task_is_the_first_that_fits():
    tasks = ("single_label", "ordinal", "multi_label", "regression")
    usual = ["cross_entropy", "cross_entropy", "binary_cross_entropy", "squared_error"]
    assert [loss_name(task) for task in tasks] == usual


def test_a_loss_that_does_not_fit_is_named_with_those_that_do():
    with pytest.raises(ValueError, match=r"train.loss='focal' .*='regression'; allowed are auto,"):
        loss_name("regression", "focal")
    wrong = jnp.zeros((2, 1))
    with pytest.raises(
        ValueError, match=r"one number for each example, shape \(4,\), got \(2, 1\)"
    ):
        example_losses("regression", jnp.asarray(LOGITS), LABELS, loss=lambda *_: wrong)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", lambda outputs, *_: outputs.sum(-1)])
def test_a_loss_is_multiplied_by_the_weight_of_its_class(loss):
    labels = jnp.asarray([0, 2, 1, 1])
    plain = example_losses("ordinal", jnp.asarray(LOGITS), labels, loss=loss)
    weighted = example_losses(
        "ordinal", jnp.asarray(LOGITS), labels, loss=loss, class_weights=(2.0, 3.0, 5.0)
    )
    np.testing.assert_allclose(weighted, plain * np.array([2, 5, 3, 3]), rtol=1e-6)


def test_labels_that_are_present_are_weighted():
    weights, yes = np.array([2.0, 3.0, 5.0]), jax.nn.log_sigmoid(LOGITS)
    expected = -(LABELS * yes * weights + (1 - LABELS) * jax.nn.log_sigmoid(-LOGITS)).mean(axis=-1)
    actual = example_losses(
        "multi_label", jnp.asarray(LOGITS), LABELS, class_weights=tuple(weights.tolist())
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("task", "loss", "weights", "message"),
    [
        ("regression", "auto", (1.0, 1.0, 1.0), "must be empty for model.task='regression'"),
        ("multi_label", lambda *_: 0, (1.0, 1.0, 1.0), "binary_cross_entropy alone takes them"),
        ("ordinal", "auto", (1.0, 1.0), "2 weights for outputs of 3"),
    ],
)
def test_weights_that_do_not_fit_are_refused(task, loss, weights, message):
    with pytest.raises(ValueError, match=message):
        example_losses(task, jnp.asarray(LOGITS), LABELS, loss=loss, class_weights=weights)
