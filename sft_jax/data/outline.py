"""Inputs and outputs of a model for the data of a config."""

from __future__ import annotations

from sft_jax.data.registry import open_dataset
from sft_jax.data.sets.base import DatasetEntry, Outline

__all__ = ["Outline", "outline"]


def outline(config: DatasetEntry) -> Outline:
    """Returns the inputs and outputs of a model, without opening the data where possible.

    A published format fixes them. Data in a format that does not, such as a folder of your own,
    is opened.

    Raises:
      ValueError: If the config names unknown modalities, or a patch does not fit.
      ValueError, OSError, ModuleNotFoundError: See `open_dataset`, if the data is opened.
    """
    known = config.outline()
    if known is None:
        info = open_dataset(config).info
        return Outline(info.modalities, len(info.class_names), info.task)
    return known
