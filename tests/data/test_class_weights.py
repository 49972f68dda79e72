"""Weights of classes follow from the labels of the training split."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from sft_jax.data.class_weights import class_weights

NAMES = ("a", "b", "2")


def test_balanced_weights_of_classes_agree_with_scikit_learn():
    labels = [0, 0, 0, 1, 2, 2, 2, 2]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    actual = class_weights("balanced", labels, "single_label", NAMES)
    np.testing.assert_allclose(actual, expected)
    assert np.mean(np.array(actual)[labels]) == pytest.approx(1)


def test_a_class_without_examples_has_weight_1():
    assert class_weights("balanced", [0, 0, 0, 2], "ordinal", NAMES) == (2 / 3, 1, 2)


def test_balanced_weights_of_labels_are_negatives_by_positives():
    labels = [np.array([1, 0, 1]), np.array([0, 0, 1]), np.array([0, 0, 1.0])]
    assert class_weights("balanced", labels, "multi_label", NAMES) == (2, 1, 1)


def test_a_mapping_takes_names_before_indices():
    assert class_weights({"2": 7.0, "0": 3.0}, [], "ordinal", NAMES) == (3, 1, 7)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"c": 2.0, "3": 1.0}, "names '3', 'c'; allowed are a, b, 2, or indices from 0 to 2"),
        ({"a": 2.0, "0": 1.0}, "gives class 'a' twice"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        class_weights(setting, [], "single_label", NAMES)
