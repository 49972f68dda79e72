"""Examples with their kept tokens: the most certain ones, and any kind of input."""

import numpy as np
import pytest

from sft_jax.evaluation.evaluator import Predictions
from sft_jax.inference.explain import Explanation
from sft_jax.page import kept


def _predictions(labels, logits, task):
    return Predictions(np.arange(len(labels)), np.array(labels), np.array(logits), None, task)


@pytest.mark.parametrize(
    ("task", "labels", "logits", "right", "wrong"),
    [
        # The second of class 0 comes after the others, although it is more certain.
        (
            "single_label",
            [0, 0, 1, 1, 0], [[9, 0], [8, 0], [0, 1], [5, 0], [0, 2]],
            [0, 2, 1], [3, 4],
        ),
        ("multi_label", [[1, 0], [1, 1], [0, 0]], [[4, -4], [4, -4], [-5, -5]], [2, 0], [1]),
        ("regression", [[0.0], [0.0], [0.0], [0.0]], [[3.0], [0.1], [0.2], [1.0]], [1, 2, 3], [0]),
    ],
)  # fmt: skip
def test_most_certain_examples_are_chosen(task, labels, logits, right, wrong):
    chosen = kept.choose(_predictions(labels, np.array(logits, float), task))
    assert chosen == [(i, True) for i in right] + [(i, False) for i in wrong]


def test_outcomes_name_truth_and_prediction():
    names = ("a", "b")
    classes = _predictions([0, 0], [[2.0, 0.0], [0.0, 2.0]], "single_label")
    assert kept.outcome(classes, 0, names) == "a (0.88)"
    assert kept.outcome(classes, 1, names) == "true a, predicted b (0.88)"
    labels = _predictions([[1, 1]], [[-1.0, -1.0]], "multi_label")
    assert kept.outcome(labels, 0, names) == "true a, b; predicted none"
    numbers = _predictions([[1.5, 2.0]], [[1.0, 0.0]], "regression")
    assert kept.outcome(numbers, 0, names) == "true 1.5, 2, predicted 1, 0"


def test_sequences_images_and_absent_inputs_are_drawn(tmp_path):
    steps = Explanation(((slice(2, 4),),), np.array([0.5, 0.25, np.nan], np.float32))
    patches = Explanation(((slice(0, 2), slice(2, 4)),), np.ones((2, 2), np.float32))
    inputs = [
        {"touch": np.zeros((4, 9)), "sight": np.ones((4, 4, 3))},
        {"sight": np.eye(4)[..., None]},
    ]
    inputs[0]["words"] = np.array(["one", "two"])
    words = Explanation(((slice(0, 1),),), np.ones(2, np.float32))
    explanations = [{"touch": steps, "sight": patches, "words": words}, {"sight": patches}]
    path = tmp_path / "kept.png"
    kept.draw_examples(path, inputs, explanations, ["one: $a$", "two"], [True, False])
    assert path.read_bytes().startswith(b"\x89PNG")
