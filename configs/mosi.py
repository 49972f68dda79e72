"""CMU-MOSI: sentiment of utterances from video, audio and words."""

from __future__ import annotations

import ml_collections

from configs.mosei import sentiment_experiment
from sft_jax.data.sets.sentiment.entry import MosiData


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Makes the CMU-MOSEI experiment of Ding et al. 2021, or with `size=laptop` a smaller one.

    Args:
      arg: Arguments of every model (`configs.common.paper_experiment`), and `variant`, the file
        to read. An example is `variant=mmsa_unaligned,size=laptop`.
    """
    return sentiment_experiment(arg, MosiData())
