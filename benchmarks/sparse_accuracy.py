"""Accuracy with windowed attention against exact attention, on sequences long enough to differ.

python benchmarks/sparse_accuracy.py --manual_dir=FOLDER --json=sparse_accuracy.json

The smartwatch exercises with every sample of windows of 10 s a token (500 tokens of each
modality), and AV-MNIST in finer patches (196 tokens of an image, 256 of a spectrogram). Each seed
trains both, from the same initial parameters on the same batches: what counts is the mean of the
differences. FOLDER holds the raw files of AV-MNIST. The result is written after each variant;
those in the file already are not repeated.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import numpy as np
from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import variants  # noqa: E402
from benchmarks.summaries import write  # noqa: E402
from configs import av_mnist, watch  # noqa: E402
from sft_jax import config_io  # noqa: E402
from sft_jax.config import ExperimentConfig  # noqa: E402
from sft_jax.data.registry import open_dataset  # noqa: E402

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Seeds.")
_ONLY = flags.DEFINE_list("only", ["watch", "av_mnist"], "Data sets.")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", "", "Folder with the raw files of AV-MNIST.")
_JSON = flags.DEFINE_string("json", None, "Where the result goes.", required=True)

ATTENTION = ("dense", "windowed")


def _config(dataset: str, attention: str) -> ExperimentConfig:
    if dataset == "watch":
        changed = watch.get_config()
        changed.data.window_seconds = 10.0
        changed.data.patch_size = 1
        changed.train.epochs = 8
    else:
        changed = av_mnist.get_config("train_pairs=4000,n_pre=1,n_post=3")
        changed.data.manual_dir = _MANUAL_DIR.value
        changed.data.valid_pairs = 500
        changed.data.test_pairs = 5000
        changed.data.patch_size = {"image": (2, 2), "sound": (2, 4)}
        changed.train.epochs = 10
    changed.model.unimodal_attention = attention
    changed.model.pre_pooling_attention = attention
    return config_io.from_mapping(changed)


def main(_: list[str]) -> None:
    """Measures what is not in the file yet, and prints the table."""
    seeds = [int(seed) for seed in _SEEDS.value]

    def measure(argument: str) -> dict[str, Any]:
        config = _config(*argument.split("/"))
        dataset = open_dataset(config.data)
        sizes = {name: spec.num_tokens for name, spec in dataset.info.modalities.items()}
        row = variants.measure(config, dataset, seeds)
        return {"tokens": sizes, "examples": dict(dataset.info.num_examples), **row}

    path = pathlib.Path(_JSON.value)
    names = [f"{dataset}/{attention}" for dataset in _ONLY.value for attention in ATTENTION]
    result = variants.measure_all(path, seeds, names, measure)
    models = result["models"]
    result["differences"] = {
        dataset: _differences(*(models[f"{dataset}/{attention}"] for attention in ATTENTION))
        for dataset in _ONLY.value
    }
    write(path, result)
    variants.print_table(models)
    for dataset, of in result["differences"].items():
        print(f"{dataset}: windowed - dense {of['mean']:+.4f} ± {of['std']:.4f}: {of['each']}")


def _differences(dense: dict[str, Any], windowed: dict[str, Any]) -> dict[str, Any]:
    """Of the test accuracies, seed by seed."""
    each = np.subtract(windowed["accuracies"], dense["accuracies"])
    return {"mean": each.mean(), "std": each.std(ddof=1), "each": each.round(4).tolist()}


if __name__ == "__main__":
    app.run(main)
