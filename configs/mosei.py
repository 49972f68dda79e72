"""CMU-MOSEI: sentiment of utterances from video, audio and words."""

from __future__ import annotations

import ml_collections

from configs.common import paper_experiment
from sft_jax.data.sets.sentiment.entry import MoseiData, SentimentData


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Makes the experiment of Ding et al. 2021, or with `size=laptop` a smaller, quick one.

    Args:
      arg: Arguments of every model (`configs.common.paper_experiment`), and `variant`, the file
        to read. An example is `variant=mult_aligned,size=laptop`.
    """
    return sentiment_experiment(arg, MoseiData())


def sentiment_experiment(arg: str | None, data: SentimentData) -> ml_collections.ConfigDict:
    """Makes an experiment on CMU-MOSEI or CMU-MOSI."""
    k = {"vision": 7, "audio": 7, "text": 1}
    return paper_experiment(arg, data, k=k, lr=1e-4, variant="mult_noalign")
