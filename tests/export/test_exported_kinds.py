"""Models of inputs of most kinds: the same predictions from what a user gives, and from files."""

import jaxtyping
import numpy as np
import pytest
import tiny_sft

import sft_jax
from sft_jax import export
from sft_jax.config import ModelConfig
from sft_jax.data.arrays import from_arrays
from sft_jax.export.comparison import stack
from sft_jax.inference.classifier import Classifier
from sft_jax.modules.factory import build_model

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
KEPT = {"clip": 1, "film": 2, "row": 3, "vitals": 2, "wave": 4}


@pytest.fixture(autouse=True)
def untyped():
    """Shape checks know no symbolic sizes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_files_of_every_kind_predict_like_the_model(tmp_path):
    splits = ("train", "valid", "test")
    dataset = from_arrays(
        dict.fromkeys(splits, GIVEN),
        dict.fromkeys(splits, np.arange(N) % 2),
        ("no", "yes"),
        kinds=KINDS,
        patch_size={"wave": 4},
    )
    config = ModelConfig(
        width=8, num_heads=2, n_pre=0, n_post=1, k={"film": 2}, tokenizers={"wave": "conv"}
    )
    model = build_model(config, dataset.info.modalities, 2)
    assert dict(model.kept_tokens()) == KEPT
    params = tiny_sft.normal_variables(model, model.example_inputs())["params"]
    classifier = Classifier(model, params, dataset.info)
    expected = classifier.predict_proba(GIVEN)
    assert np.ptp(expected[:, 0]) > 0.01
    refused = r"tokens=columns .*tokens=events .*tokens=ids .*tokens=module .*stablehlo"
    with pytest.raises(ValueError, match=refused):
        export.write(classifier, tmp_path / "model.onnx", "onnx")
    written = export.write(classifier, tmp_path / "model.stablehlo", "stablehlo")
    batch = stack(dataset, range(N))
    np.testing.assert_allclose(written.predict(batch.raw, batch.masks), expected, atol=1e-4)
    export.write(classifier, tmp_path / "folder", "safetensors")
    again = sft_jax.load(tmp_path / "folder").predict_proba(GIVEN)
    np.testing.assert_allclose(again, expected, atol=1e-5)
