"""Table of the datasets of this library."""

from __future__ import annotations

from collections.abc import Mapping

from sft_jax.data.sets.av_mnist.entry import AvMnistData
from sft_jax.data.sets.base import DatasetEntry
from sft_jax.data.sets.hapt.entry import HaptData
from sft_jax.data.sets.matching.entry import MatchingData
from sft_jax.data.sets.npz_folder.entry import FolderData
from sft_jax.data.sets.physionet2012.entry import PhysioNet2012Data
from sft_jax.data.sets.sentiment.entry import MoseiData, MosiData
from sft_jax.data.sets.tfds.entry import TfdsData
from sft_jax.data.sets.vggsound.entry import VggSoundData
from sft_jax.data.sets.watch.entry import WatchData

DATASETS: Mapping[str, type[DatasetEntry]] = {
    "watch": WatchData,
    "mosei": MoseiData,
    "mosi": MosiData,
    "vggsound": VggSoundData,
    "av_mnist": AvMnistData,
    "hapt": HaptData,
    "matching": MatchingData,
    "physionet2012": PhysioNet2012Data,
    "npz_folder": FolderData,
    "tfds": TfdsData,
}
"""Datasets of this library by the name in `data.name`."""
