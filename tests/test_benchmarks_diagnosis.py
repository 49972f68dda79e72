"""Recall of planted tokens, and rows of the diagnosis."""

import numpy as np
import pytest
import tiny_sft

from benchmarks import diagnosis
from benchmarks.variant import Variant


def test_recall_is_the_share_of_planted_tokens_that_are_kept():
    kept, planted = np.array([[3, 0], [1, 2]]), np.array([[0, 1], [2, 1]])
    assert diagnosis.recall(kept, planted) == 0.75


def _source():
    inputs, masks = tiny_sft.inputs(), tiny_sft.masks()
    return [
        {
            "id": str(i),
            "inputs": {name: values[i] for name, values in inputs.items()},
            "masks": {name: values[i] for name, values in masks.items()},
            "label": 0,
        }
        for i in range(tiny_sft.BATCH)
    ]


def test_kept_and_salient_tokens_are_those_of_the_pool():
    model = tiny_sft.sft(pool="attn_topk", n_pre=0)
    chosen = diagnosis.chosen_tokens(model, tiny_sft.variables(model)["params"], _source(), 2)
    assert set(chosen) == set(tiny_sft.MODALITIES)
    planted = {}
    for name, own in chosen.items():
        assert own["kept"].shape == (tiny_sft.BATCH, tiny_sft.K)
        planted[name] = np.argsort(-own["saliency"], axis=1)[:, : tiny_sft.K]
        np.testing.assert_array_equal(own["kept"][0], planted[name][0])
    assert diagnosis.recalls(chosen, planted)["salient_recall"] == 1


def test_a_model_without_a_pool_has_no_recall():
    planted = dict.fromkeys(tiny_sft.MODALITIES, np.zeros((2, 1), int))
    nothing = {name: {} for name in planted}
    assert diagnosis.recalls(nothing, planted) == {"recall": None, "salient_recall": None}


@pytest.mark.parametrize("name", diagnosis.ROWS)
def test_a_row_names_a_valid_experiment(name):
    config = Variant("matching", "", diagnosis.ROWS[name]).experiment()
    assert name.startswith(f"events={config.data.events}/")
