"""Images beside sequences, from the dataset to the evaluation of what was trained."""

import jax
import numpy as np
import pytest
import synthetic

from sft_jax import ModalitySpec
from sft_jax.data.dataset import Dataset, DatasetInfo, compute_statistics

IMAGE = ModalitySpec((5, 6), 2, patch_size=(2, 3))


def _example(index):
    """A sequence of `synthetic` with an image, whose last columns are padding or all of it."""
    example = synthetic.example(index)
    image = np.random.default_rng(index).normal(size=IMAGE.shape).astype(np.float32)
    mask = np.broadcast_to(np.arange(6) < index % 7, (5, 6))
    return example | {
        "inputs": {"sound": example["inputs"]["sound"], "image": image},
        "masks": {"sound": example["masks"]["sound"], "image": mask},
    }


@pytest.mark.slow
def test_images_are_trained_on_and_evaluated(tmp_path):
    splits = {"train": [_example(i) for i in range(16)], "valid": [_example(i) for i in range(5)]}
    info = DatasetInfo(
        modalities={"image": IMAGE, "sound": synthetic.MODALITIES["sound"]},
        class_names=synthetic.CLASSES,
        statistics=compute_statistics(splits["train"]),
        num_examples={split: len(examples) for split, examples in splits.items()},
    )
    experiment = synthetic.config(
        train__epochs=2,
        train__accumulate=2,
        train__modality_dropout=0.5,
        mixup__layers="any",
        mixup__warmup_epochs=0.0,
    )
    result, evaluator = synthetic.run(tmp_path, experiment, data=Dataset(info, splits.__getitem__))
    losses = synthetic.training_losses(tmp_path)
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    predictions = evaluator.predict(result.state.params)
    assert predictions.logits.shape == (5, 3)
    assert np.isfinite(predictions.logits).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))
