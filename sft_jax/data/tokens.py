"""Number of tokens that patches make of each modality."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from sft_jax.structs import ModalitySpec

MANY_TOKENS = 1_200
"""Largest number of tokens of a modality without a warning: that of the sound of VGGSound."""

_LOGGER = logging.getLogger(__name__)


def log_tokens(modalities: Mapping[str, ModalitySpec]) -> None:
    """Logs the number of tokens of each modality at full length, and warns of many."""
    counts = {name: spec.num_tokens for name, spec in modalities.items()}
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    _LOGGER.info("tokens of an example, at most: %s", listed)
    for name, count in counts.items():
        if count > MANY_TOKENS:
            _LOGGER.warning(
                "%s has %s tokens, and attention costs their square in time and memory;"
                " larger patches make fewer: data.patch_size (patch_size of from_arrays)",
                name,
                f"{count:,}",
            )
