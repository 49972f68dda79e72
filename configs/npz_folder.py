"""Your own data: a folder of .npz files with a manifest."""

from __future__ import annotations

import ml_collections

from configs.common import small_experiment
from sft_jax.data.sets.npz_folder.entry import FolderData


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Makes a small experiment; `--config.data.manual_dir=FOLDER` names the folder of the data.

    Args:
      arg: Arguments of every model (`configs.common.small_experiment`).
    """
    return small_experiment(arg, FolderData())
