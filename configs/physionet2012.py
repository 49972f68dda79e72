"""PhysioNet 2012: vital signs, laboratory values and descriptors of stays in intensive care."""

from __future__ import annotations

import ml_collections

from configs.common import small_experiment
from sft_jax.data.sets.physionet2012.entry import PhysioNet2012Data


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Makes a small experiment on events of four hours.

    Args:
      arg: Arguments of every model (`configs.common.small_experiment`), and `target`, `bin_hours`,
        `folds` and `fold`. An example is `pool=max,k=8,bin_hours=1`.
    """
    return small_experiment(
        arg, PhysioNet2012Data(), target="death", bin_hours=4.0, folds=0, fold=0
    )
