"""The head of each task, alone and in the models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_baselines
import tiny_sft
from scipy.special import expit

from sft_jax.modules.head import ClassifierHead, OrdinalHead

TOKENS = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)


def test_the_ordinal_head_is_proportional_odds_of_a_linear_score():
    head, tokens = OrdinalHead(4), jnp.asarray(TOKENS)
    params = head.init(jax.random.key(0, impl="rbg"), tokens)["params"]
    kernel, stored = params["score"]["kernel"][:, 0], params["thresholds"]
    assert params["score"].keys() == {"kernel"}
    normed = (TOKENS - TOKENS.mean(1, keepdims=True)) / np.sqrt(TOKENS.var(1, keepdims=True) + 1e-5)
    thresholds = stored[0] + np.cumsum([0, *np.log1p(np.exp(np.asarray(stored[1:], np.float64)))])
    ends = np.concatenate([[-np.inf], thresholds, [np.inf]])
    expected = np.diff(expit(ends - (normed @ np.asarray(kernel, np.float64))[:, None]))
    outputs = np.asarray(head.apply({"params": params}, tokens))
    np.testing.assert_allclose(np.exp(outputs), expected, rtol=1e-4)
    # They are logits as they are.
    np.testing.assert_allclose(jax.nn.log_softmax(outputs), outputs, atol=1e-5)
    np.testing.assert_allclose(expected.mean(axis=0), 1 / 4, atol=0.1)


@pytest.mark.parametrize("head", [ClassifierHead, OrdinalHead])
def test_outputs_are_float32_at_least(head):
    module = head(3, jnp.bfloat16)
    tokens = jnp.asarray(TOKENS, jnp.bfloat16)
    outputs, params = jax.eval_shape(module.init_with_output, jax.random.key(0, impl="rbg"), tokens)
    assert (outputs.shape, outputs.dtype) == ((64, 3), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", tiny_baselines.RIGHT)
def test_every_model_takes_the_head_of_its_task(name):
    key, inputs = jax.random.key(0, impl="rbg"), tiny_sft.inputs()
    for task, parts in (
        ("single_label", {"norm", "classifier"}),
        ("multi_label", {"norm", "classifier"}),
        ("regression", {"norm", "classifier"}),
        ("ordinal", {"norm", "score", "thresholds"}),
    ):
        model = tiny_baselines.make(name, task=task)
        outputs, variables = jax.eval_shape(model.init_with_output, key, inputs)
        assert outputs.shape == (tiny_sft.BATCH, 4)
        assert variables["params"]["head"].keys() == parts


def test_a_task_that_cannot_be_is_named():
    inputs = tiny_sft.inputs()
    for attributes, message in (
        ({"task": "ranking"}, "task='ranking' is not one of single_label, multi_label, ordinal, "),
        ({"task": "ordinal", "num_classes": 1}, "num_classes=1 must be at least 2 for task"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny_sft.sft(**attributes).init(jax.random.key(0), inputs)
