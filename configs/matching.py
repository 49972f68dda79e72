"""A diagnosis with a known answer: do planted events agree between two sequences?"""

from __future__ import annotations

import ml_collections

from configs.common import small_experiment
from sft_jax.data.sets.matching.entry import MatchingData


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Makes an experiment that a laptop trains in a minute.

    Args:
      arg: Arguments of every model (`configs.common.small_experiment`), `events` and `length`,
        such as `events=16,pool=random,k=16`.
    """
    data = MatchingData()
    # Without a block before pooling, the tokens that a pool sees have attended only once. Short
    # batches and a high rate are what finds the events in few seconds.
    config = small_experiment(arg, data, n_pre=0, n_post=2, events=data.events, length=data.length)
    config.model.task = "multi_label"
    config.model.width, config.model.num_heads = 32, 4
    config.model.dropout = 0.0
    config.optim.lr, config.optim.weight_decay = 5e-3, 0.01
    config.optim.warmup_epochs = 0.2
    config.train.ema_decay = 0.0
    config.train.batch_size, config.train.epochs = 32, 5
    return config
