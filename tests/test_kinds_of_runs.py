"""A run on inputs of most kinds: trained, predicted from what a user gives, and exported."""

import jaxtyping
import numpy as np
import pytest

import sft_jax
from sft_jax import experiment, export
from sft_jax.config import ExperimentConfig, ModelConfig, TrainConfig
from sft_jax.data.arrays import from_arrays
from sft_jax.evaluation.run import evaluate_run
from sft_jax.export.comparison import stack

pytestmark = pytest.mark.process

N = 8
RNG = np.random.default_rng(0)
GIVEN = {
    "clip": RNG.normal(size=(N, 4)),
    "film": ["A good film!", "bad", "a BAD film, a bad film", "good"] * 2,
    "row": RNG.normal(size=(N, 3)) * [1, 100, 0.01],
    "vitals": [np.stack([[0.5, 2], [0, 1], [i, 9]], axis=1) for i in range(N)],
    "wave": RNG.normal(size=(N, 20, 1)),
}
KINDS = {"clip": "embedding", "row": "vector", "vitals": "events"}


@pytest.fixture(autouse=True)
def untyped():
    """Shapes with a symbol are none that jaxtyping can check."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_a_run_takes_kinds_from_arrays_to_exports(tmp_path):
    splits = ("train", "valid", "test")
    dataset = from_arrays(
        dict.fromkeys(splits, GIVEN),
        dict.fromkeys(splits, np.arange(N) % 2),
        ("no", "yes"),
        kinds=KINDS,
        patch_size={"wave": 4},
    )
    model = ModelConfig(
        width=8, num_heads=2, n_pre=0, n_post=1, k={"film": 2}, tokenizers={"wave": "conv"}
    )
    config = ExperimentConfig(model=model, train=TrainConfig(epochs=2, batch_size=N))
    run = tmp_path / "run"
    experiment.train(config, run, dataset)
    classifier = sft_jax.load(run)
    kept = {"clip": 1, "film": 2, "row": 3, "vitals": 2, "wave": 4}
    assert dict(classifier.model.kept_tokens()) == kept
    expected = classifier.predict_proba(GIVEN)
    _, predictions = evaluate_run(run, "test", "best", dataset=dataset)
    odds = np.exp(predictions.logits - predictions.logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(odds / odds.sum(1, keepdims=True), expected, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"tokens=columns .*tokens=events .*tokens=ids .*stablehlo"
    ):
        export.write(classifier, tmp_path / "model.onnx", "onnx")
    written = export.write(classifier, tmp_path / "model.stablehlo", "stablehlo")
    batch = stack(dataset, range(N))
    np.testing.assert_allclose(written.predict(batch.raw, batch.masks), expected, atol=1e-5)
    export.write(classifier, tmp_path / "folder", "safetensors")
    again = sft_jax.load(tmp_path / "folder").predict_proba(GIVEN)
    np.testing.assert_allclose(again, expected, atol=1e-5)
