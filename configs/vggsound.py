"""VGGSound: sounds of clips from features of video frames, spectrogram and optical flow."""

from __future__ import annotations

import ml_collections

from configs.common import paper_experiment
from sft_jax.data.sets.vggsound.entry import VggSoundData


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Makes the experiment of Ding et al. 2021, or with `size=laptop` a smaller, quick one.

    Args:
      arg: Arguments of every model (`configs.common.paper_experiment`), and `classes`, 10 or
        100. An example is `classes=100,pool=attn_topk`.
    """
    return paper_experiment(
        arg,
        VggSoundData(),
        k={"rgb": 1, "spect": 18, "flow": 1},
        lr=1e-3,
        classes=10,
    )
