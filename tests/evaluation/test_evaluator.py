"""Every example is evaluated once, whatever the size of the batches and number of devices."""

import jax
import numpy as np
import optax
import pytest
import synthetic
import tiny_sft

from sft_jax.evaluation.evaluator import Evaluator
from sft_jax.parallel import sharding

SOURCE = [synthetic.example(i) for i in range(13)]
MODEL = tiny_sft.sft(modalities=synthetic.MODALITIES, num_classes=3, n_pre=0)
MESHES = {count: sharding.make_mesh(devices=jax.devices()[:count]) for count in (1, 8)}


@pytest.fixture(scope="module")
def params():
    return tiny_sft.variables(MODEL)["params"]


@pytest.fixture(scope="module")
def apply(params):
    """Computes the logits of all examples in one batch, with some modalities masked."""
    compiled = jax.jit(MODEL.apply)
    inputs, masks = (
        {name: np.stack([e[part][name] for e in SOURCE]) for name in synthetic.MODALITIES}
        for part in ("inputs", "masks")
    )

    def run(masked=()):
        left = {name: mask & (name not in masked) for name, mask in masks.items()}
        return np.asarray(compiled({"params": params}, inputs, left))

    return run


@pytest.fixture(scope="module")
def expected(apply):
    return apply()


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (5, 1), (13, 1), (16, 1), (8, 8)])
def test_every_example_is_predicted_once_and_in_order(params, expected, batch_size, devices):
    predictions = Evaluator(MODEL, SOURCE, batch_size, MESHES[devices]).predict(params)
    labels = np.array([example["label"] for example in SOURCE])
    assert predictions.ids.tolist() == [example["id"] for example in SOURCE]
    np.testing.assert_array_equal(predictions.labels, labels)
    np.testing.assert_allclose(predictions.logits, expected, rtol=1e-5, atol=1e-6)
    losses = optax.softmax_cross_entropy_with_integer_labels(expected, labels)
    np.testing.assert_allclose(predictions.loss, losses, rtol=1e-4, atol=1e-5)


def test_it_compiles_once_and_follows_the_parameters(params, expected):
    evaluate = Evaluator(MODEL, SOURCE, 8, MESHES[8])
    labels = np.array([example["label"] for example in SOURCE])
    losses = optax.softmax_cross_entropy_with_integer_labels(expected, labels)
    first = evaluate(params)
    assert first["accuracy"] == pytest.approx((expected.argmax(-1) == labels).mean())
    assert first["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    changed = evaluate(jax.tree.map(lambda a: 2 * a, params))
    assert changed["loss"] != pytest.approx(first["loss"], rel=1e-3)
    assert evaluate(params) == first
    # NaN, so that such a checkpoint is never the best by either metric.
    nothing = evaluate(jax.tree.map(lambda a: a * np.nan, params))
    assert np.isnan([nothing["loss"], nothing["accuracy"]]).all()
    assert evaluate.compiles == 1


@pytest.mark.parametrize(("name", "other"), [("sight", "sound"), ("sound", "sight")])
def test_one_modality_equals_the_other_masked(params, apply, expected, name, other):
    evaluator = Evaluator(MODEL, SOURCE, 5, MESHES[1], [name])
    predictions = evaluator.predict(params)
    assert evaluator.modalities == (name,)
    assert predictions.ids.tolist() == [example["id"] for example in SOURCE]
    np.testing.assert_allclose(predictions.logits, apply([other]), rtol=1e-4, atol=1e-5)
    assert np.abs(predictions.logits - expected).max() > 0.1
