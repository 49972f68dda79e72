"""Models at another number of kept tokens than they were trained with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sft_jax.ops.pool import find_pool
from sft_jax.structs import DEFAULT_K, OTHERS, ModalitySpec

_LOGGER = logging.getLogger(__name__)


def budgets(
    k: int | Mapping[str, int], modalities: Mapping[str, ModalitySpec]
) -> int | dict[str, int]:
    """Finds the number of tokens kept of each modality of a model.

    A number for all, or for `others`, becomes the number of tokens of a modality that has fewer. If
    it exceeds the tokens of every modality, it stays, and the model refuses it.

    Args:
      k: Number for all modalities, or by name; see `sft_jax.config.ModelConfig`.
      modalities: Shape of each modality.
    """
    stated = dict(k) if isinstance(k, Mapping) else {}
    rest = stated.pop(OTHERS, DEFAULT_K) if isinstance(k, Mapping) else k
    left = {name: spec.num_tokens for name, spec in modalities.items() if name not in stated}
    fewer = {name: count for name, count in left.items() if count < rest}
    if not stated and len(fewer) in (0, len(left)):
        return rest
    if len(fewer) < len(modalities):
        for name, count in fewer.items():
            _LOGGER.info("k=%d: %s has %d tokens, and keeps them all", rest, name, count)
        left = {name: min(rest, count) for name, count in left.items()}
    return stated | left


def with_budget(model: Any, k: int | Mapping[str, int]) -> Any:
    """Clones a model for another number of kept tokens; it takes the same parameters.

    Only learned pools have parameters for each kept token. They compute their first `k`, so `k` is
    at most the number that they were trained with. All other pools take any `k` from 0 to the
    number of tokens of a modality.

    Args:
      model: Model that was trained, a `sft_jax.SparseFusionTransformer`.
      k: Number of tokens kept of each modality, for all or by name. See `budgets` for a modality
        with fewer tokens.

    Raises:
      ValueError: If the model does not pool tokens, or can't be evaluated with this number.
    """
    if not hasattr(model, "k"):
        raise ValueError(
            f"k={k}: {type(model).__name__} keeps all tokens; SparseFusionTransformer alone has a k"
        )
    pool = find_pool(model.pool)
    if not pool.uses_k:
        raise ValueError(f"k={k}: pool={model.pool!r} keeps all tokens, whatever k is")
    cloned = model.clone(k=k if isinstance(k, Mapping) else budgets(k, model.modalities))
    if problems := cloned._problems():
        raise ValueError(f"{type(model).__name__}: " + "; ".join(problems))
    if pool.module is None:
        return cloned
    trained, kept = model.kept_tokens(), cloned.kept_tokens()
    if not pool.nested and kept != trained:
        raise ValueError(
            f"k={k}: the parameters of pool={model.pool!r} are for k={model.k} alone, as the pool"
            " is not nested"
        )
    if larger := [name for name in kept if kept[name] > trained[name]]:
        raise ValueError(
            f"k={k} for modality {larger[0]!r}: pool={model.pool!r} has parameters for"
            f" {trained[larger[0]]} tokens; k must be at most that"
        )
    return cloned
