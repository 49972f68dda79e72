"""Which modalities a model is given in an evaluation, where that is not all of them."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.structs import Batch

_MOST_LETTERS = 150

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


OWN = "own"
"""What a result is of, where it is of the data of the run itself."""


def file_stem(result: Mapping[str, Any]) -> str:
    """What the files of a result are called, up to the ending: different ones differently.

    `SPLIT` for the run's own data, its best checkpoint and all modalities. Else what is another:
    `SPLIT-FIRST-SECOND` by the names of the modalities given, sorted; `SPLIT@CHECKPOINT`, latest
    or a step; `SPLIT+DATA`, by the first digits of the data's fingerprint; or all of these, in
    this order. Where names of modalities are too long together, their digest stands for them.

    Args:
      result: `split`, `modalities` and `left_out` of an evaluation, and `checkpoint` and `data`,
        by default best and own.
    """
    given = "-".join(result["modalities"]) if result["left_out"] else ""
    if len(given) > _MOST_LETTERS:
        given = hashlib.sha256(given.encode()).hexdigest()[:16]
    which, data = result.get("checkpoint", "best"), result.get("data", OWN)
    return "".join(
        [
            _letters(result["split"]),
            f"-{given}" if given else "",
            f"@{_letters(which)}" if which != "best" else "",
            f"+{data[:12]}" if data != OWN else "",
        ]
    )


def _letters(text: str) -> str:
    """Escapes, as %XX of UTF-8, all but letters, digits and underscores of ASCII."""

    def escaped(found: re.Match[str]) -> str:
        return "".join(f"%{byte:02X}" for byte in found[0].encode(errors="surrogatepass"))

    return re.sub(r"[^A-Za-z0-9_]", escaped, text)
