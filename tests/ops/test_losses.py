"""The loss against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sft_jax.ops.losses import cross_entropy

LOGITS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32) * 5


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_agrees_with_optax(smoothing):
    labels = jnp.asarray([0, 2, 1, 1])
    targets = optax.smooth_labels(jax.nn.one_hot(labels, 3), smoothing)
    expected = optax.softmax_cross_entropy(LOGITS, targets)
    found = cross_entropy(jnp.asarray(LOGITS), labels, smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_label_out_of_range_gives_nan_for_its_example_alone():
    loss = cross_entropy(jnp.asarray(LOGITS), jnp.asarray([-1, 0, 3, 2]))
    assert np.isnan(loss).tolist() == [True, False, True, False]


def test_huge_logits_stay_finite():
    loss = cross_entropy(jnp.asarray([[1e30, 0.0], [0.0, 1e4]]), jnp.asarray([0, 0]))
    np.testing.assert_allclose(loss, [0, 1e4])
