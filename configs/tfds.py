"""Your own data: any dataset of TensorFlow Datasets that is prepared as array_record."""

from __future__ import annotations

import ml_collections

from configs.common import small_experiment
from sft_jax.data.sets.tfds.entry import TfdsData


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Makes a small experiment; see `--config.data.builder` and `--config.data.modalities`.

    Args:
      arg: Arguments of every model (`configs.common.small_experiment`).
    """
    return small_experiment(arg, TfdsData())
