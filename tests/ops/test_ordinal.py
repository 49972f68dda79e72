"""Log-probabilities of ordered classes against the formula, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from sft_jax.ops.ordinal import (
    ordered_thresholds,
    ordinal_log_probabilities,
    uniform_thresholds,
)

STORED = np.array([-1.5, 0.3, -2.0, 1.0], np.float32)
SCORES = np.linspace(-4, 4, 9, dtype=np.float32)
LOG_PROBABILITIES = jax.jit(ordinal_log_probabilities)


def formula(scores, thresholds):
    """`P(y = j) = sigmoid(t_j - s) - sigmoid(t_{j-1} - s)`."""
    ends = np.concatenate([[-np.inf], np.asarray(thresholds, np.float64), [np.inf]])
    return np.diff(expit(ends - scores[:, None].astype(np.float64)))


def test_log_probabilities_are_those_of_the_formula():
    thresholds = -1.5 + np.cumsum([0, *np.log1p(np.exp([0.3, -2.0, 1.0]))])
    np.testing.assert_allclose(ordered_thresholds(jnp.asarray(STORED)), thresholds, rtol=1e-6)
    actual = LOG_PROBABILITIES(SCORES, STORED)
    np.testing.assert_allclose(actual, np.log(formula(SCORES, thresholds)), rtol=1e-4)
    np.testing.assert_allclose(np.exp(actual).sum(axis=1), 1, rtol=1e-5)


def test_a_higher_score_means_higher_classes():
    at_most = np.exp(LOG_PROBABILITIES(SCORES, STORED)).cumsum(axis=1)[:, :-1]
    assert (np.diff(at_most, axis=0) < 0).all()


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_initially_all_classes_are_as_likely(classes):
    stored = uniform_thresholds(classes)
    assert stored.shape == (classes - 1,)
    actual = np.exp(ordinal_log_probabilities(jnp.zeros(1), jnp.asarray(stored)))
    np.testing.assert_allclose(actual, np.full((1, classes), 1 / classes), rtol=1e-5)


@pytest.mark.parametrize("gap", [0.5, -200.0, 200.0])
def test_extreme_scores_and_gaps_stay_finite(gap):
    scores = np.array([-1e4, 0.0, 1e4], np.float32)
    stored = np.array([0.0, gap, gap], np.float32)
    actual = np.asarray(LOG_PROBABILITIES(scores, stored))
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual[0, 0], 0, atol=1e-6)
    np.testing.assert_allclose(actual[2, 0], -1e4)
    if gap != 200:
        np.testing.assert_allclose(actual[2, -1], 0, atol=1e-6)
    for chosen in range(4):
        d_score, d_stored = jax.grad(
            lambda *a, chosen=chosen: LOG_PROBABILITIES(*a)[:, chosen].sum(), argnums=(0, 1)
        )(scores, stored)
        assert np.isfinite(d_score).all()
        assert np.isfinite(d_stored).all()
        # Far from the thresholds, towards the class with the slope of the logistic's tail.
        assert d_score[0] == (1 if chosen else 0)
