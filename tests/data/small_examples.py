"""Examples of one short modality, and a dataset of them."""

import numpy as np

from sft_jax.data.dataset import Dataset, DatasetInfo, Standardisation
from sft_jax.structs import ModalitySpec


def make_example(number, length=6, real=4, label=0):
    """Makes an example of one modality `a`, `[length, 2]`, of whose steps the first are real."""
    rng = np.random.default_rng(number)
    mask = np.arange(length) < real
    values = rng.normal(3.0, 2.0, (length, 2)).astype(np.float32)
    return {"id": f"no{number}", "inputs": {"a": values}, "masks": {"a": mask}, "label": label}


def make_dataset(
    examples, statistics=None, task="single_label", class_names=("no", "yes"), metrics=()
):
    """Makes a dataset whose split `train` has these examples, by default not standardised."""
    info = DatasetInfo(
        modalities={"a": ModalitySpec(length=6, features=2)},
        class_names=class_names,
        statistics=statistics or {"a": Standardisation(mean=(0.0, 0.0), std=(1.0, 1.0))},
        num_examples={"train": len(examples)},
        task=task,
        metrics=metrics,
    )
    return Dataset(info, {"train": examples}.__getitem__)
