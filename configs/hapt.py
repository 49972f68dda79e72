"""HAPT: activities and postural transitions, by the sensors of a smartphone."""

from __future__ import annotations

import ml_collections

from configs.common import small_experiment
from sft_jax.data.sets.hapt.entry import HaptData

_SINGLE = {"target": "activity", "window_seconds": 2.56, "stride_seconds": 1.28, "patch_size": 8}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Makes a small experiment of tagging.

    Args:
      arg: Arguments of every model (`configs.common.small_experiment`), and `target`. With
        `target=activity` it classifies windows of 2.56 s within one activity.
    """
    config = small_experiment(arg, HaptData(), target="tagging")
    # Chosen for tagging on people 20 to 23: batches of 32, since after equally many steps the
    # validation loss was below that of 64, and the rate, since it was below those of 0.001 and
    # 0.002. Longer training was not tried.
    config.train.batch_size = 32
    config.optim.lr = 0.004
    config.train.epochs = 6
    if config.data.target == "activity":
        config.data.update(_SINGLE)
        config.model.task = "single_label"
    else:
        config.model.task = "multi_label"
    return config
