"""Which modalities a model is given in an evaluation, where that is not all of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.structs import Batch

MOST_MODALITIES = 4
"""Of more than these, `every_subset` would be more than 15 evaluations."""


def check_subset(
    model: MultimodalClassifier, modalities: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The modalities to give to a model, sorted.

    Args:
      model: what is evaluated.
      modalities: their names; None for all that the model was made for.

    Raises:
      ValueError: if there is none, one is unknown or twice there, or the logits of the model
        depend on none of them.
    """
    known = sorted(model.modalities)
    names = known if modalities is None else sorted(modalities)
    allowed = f"allowed are {', '.join(known)}, each once"
    if not names:
        raise ValueError(f"modalities: at least one must be named; {allowed}")
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"modalities: unknown {', '.join(map(repr, unknown))}; {allowed}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"modalities: {', '.join(twice)} more than once; {allowed}")
    used = model.mixed_modalities
    if not set(names) & set(used):
        raise ValueError(
            f"modalities={','.join(names)}: the model classifies {', '.join(used)} alone, and"
            " without it would give every example the same logits"
        )
    return tuple(names)


def every_subset(model: MultimodalClassifier) -> list[tuple[str, ...]]:
    """Every non-empty set of the modalities that the logits depend on, the largest first.

    Raises:
      ValueError: if there are more than `MOST_MODALITIES`.
    """
    used = sorted(model.mixed_modalities)
    if len(used) > MOST_MODALITIES:
        raise ValueError(
            f"{len(used)} modalities have {2 ** len(used) - 1} subsets; all can be evaluated at"
            f" once for at most {MOST_MODALITIES} modalities, and one at a time for any number"
        )
    sizes = range(len(used), 0, -1)
    return [subset for size in sizes for subset in itertools.combinations(used, size)]


def restrict(batch: Batch, modalities: Sequence[str]) -> Batch:
    """The batch with the inputs and masks of these modalities alone."""
    return batch.replace(
        inputs={name: batch.inputs[name] for name in modalities},
        masks={name: batch.masks[name] for name in modalities},
    )


def file_stem(result: Mapping[str, Any]) -> str:
    """What the files of a result of `evaluate_run` are called, up to the ending.

    `SPLIT` if no modality was left out, and `SPLIT-FIRST-SECOND` by the names of those given,
    sorted. Names are identifiers, so hold no "-", no separator of paths and no space.
    """
    given = result["modalities"] if result["left_out"] else []
    return "-".join([result["split"], *given])
