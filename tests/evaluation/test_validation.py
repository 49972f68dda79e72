"""Validation computes the metric that selects the best checkpoint."""

import math

import numpy as np
import pytest

from sft_jax import ModalitySpec, SparseFusionTransformer
from sft_jax.evaluation.evaluator import Predictions
from sft_jax.evaluation.validation import Validation, check_defined
from sft_jax.selection import find_metric

NAMES = ("no", "yes")


class _Evaluator:
    """Evaluator whose logits are the parameters."""

    def predict(self, params):
        return Predictions(np.arange(4), np.array([0, 1, 0, 1]), params, np.ones(4, np.float32))

    def scores(self, predictions):
        return {"loss": float(predictions.loss.mean()), "accuracy": 0.5}


def _validate(name, logits):
    selection = find_metric("single_label", name, len(NAMES))
    validate = Validation(None, [1], lambda model: _Evaluator(), selection, NAMES)
    return validate(np.array(logits, np.float32))


LOGITS = [[0, 1], [0, 2], [0, -3], [0, 3]]


def test_the_metric_is_computed():
    plain = {"loss": 1, "accuracy": 0.5}
    assert _validate("accuracy", LOGITS) == plain
    assert _validate("macro_f1", LOGITS) == {
        **plain,
        "macro_f1": pytest.approx((2 / 3 + 4 / 5) / 2),
    }
    assert _validate("ranking.mAP", LOGITS) == {**plain, "ranking.mAP": 1}


class _SizeOfPatches:
    """Evaluator whose loss is the number of steps in a patch, taken from the parameters."""

    def __init__(self, model):
        self._model = model

    def predict(self, params):
        rows = params["tokenizer_a"]["projection"]["kernel"].shape[0]
        assert rows == self._model.modalities["a"].patch_size
        return rows

    def scores(self, rows):
        return {"loss": rows}


def test_metrics_are_means_over_strides():
    model = SparseFusionTransformer(2, {"a": ModalitySpec(8, 1)}, width=2, num_heads=1)
    params = {
        "tokenizer_a": {"projection": {"kernel": np.ones((1, 2))}, "position": np.ones((1, 9, 2))}
    }
    selection = find_metric("single_label", "loss", len(NAMES))
    validate = Validation(model, [1, 2, 4], _SizeOfPatches, selection, NAMES)
    assert validate(params) == {"loss": pytest.approx((1 + 2 + 4) / 3)}


def test_outputs_that_are_not_finite_give_nan():
    assert math.isnan(_validate("auroc", [[0, math.nan], *LOGITS[1:]])["roc_auc"])


@pytest.mark.parametrize(("labels", "defined"), [([0, 1, 1], True), ([1, 1, 1], False)])
def test_a_metric_undefined_for_the_split_is_refused(labels, defined):
    selection = find_metric("single_label", "auroc", 2)
    source = [{"label": label} for label in labels]
    if defined:
        check_defined(selection, source, NAMES, "single_label")
    else:
        with pytest.raises(ValueError, match="='roc_auc' is undefined for the 3 examples of the"):
            check_defined(selection, source, NAMES, "single_label")
