"""Kinds of inputs: the form in which they are given, and `[*lengths, features]`, which is kept.

| kind | one example, as given | kept as | tokens | standardised |
| --- | --- | --- | --- | --- |
| `series` | `[length, features]`, `[length]` | `[length, features]` | patches | by feature |
| `image` | `[height, width, channels]`, `[height, width]` | channels last | patches | by channel |
| `channels_first` | `[channels, height, width]` | channels last | patches | by channel |
| `video` | `[length, ..., features]` | as given | patches | by feature |
| `vector` | `[columns]` | `[1, columns]` | groups of columns | by column |
| `embedding` | `[features]`, `[length, features]` | `[length, features]` | patches | if asked |
| `tokens` | `[length]` integers | `[length, 1]` | rows of a table | never |
| `text` | a string | `[length, 1]` ids | rows of a table | never |
| `events` | `[events, 3]`: time, type, value | as given | one each | time; value by type |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from sft_jax.data.vocabulary import Vocabulary
from sft_jax.plugins import suggest
from sft_jax.structs import IDS, Kind, ModalitySpec, NotFinite

FORMS: Mapping[Kind, str] = {
    "series": "[length, features], or [length] of one feature",
    "image": "[height, width, channels], or [height, width] of grey images",
    "channels_first": "[channels, height, width]",
    "video": "[length, ..., features] of at least 4 axes",
    "vector": "[columns]",
    "embedding": "[features], or [length, features]",
    "tokens": "[length] of integers",
    "text": "a string",
    "events": "[events, 3] of time, type and value",
}
"""Form of one example of each kind, as it is given."""

_AXES: Mapping[Kind, tuple[int, ...]] = {
    "series": (1, 2),
    "image": (2, 3),
    "channels_first": (3,),
    "vector": (1,),
    "embedding": (1, 2),
    "tokens": (1,),
    "text": (0,),
    "events": (2,),
}
_FIELDS = "kinds of from_arrays, or data.kinds"


def check_kinds(kinds: Mapping[str, Any], modalities: Any, field: str) -> dict[str, Kind]:
    """Checks stated kinds.

    Args:
      kinds: Modality name to its kind.
      modalities: Names of the known modalities.
      field: Name of the argument in errors.

    Raises:
      ValueError: If a modality or a kind is unknown.
    """
    if unknown := sorted(set(kinds) - set(modalities)):
        raise ValueError(f"{field}: unknown modality {unknown}, known: {sorted(modalities)}")
    for name, kind in kinds.items():
        if kind not in get_args(Kind):
            raise ValueError(f"{field}: {name} of kind {kind!r}; {suggest(kind, [*FORMS])}")
    return dict(kinds)


def guess(name: str, values: np.ndarray) -> Kind:
    """Tells the kind of an example by its number of axes; strings are text.

    Raises:
      ValueError: If several kinds have so few axes; lists them.
    """
    if values.dtype.kind == "U" and not values.ndim:
        return "text"
    if values.ndim < 2:
        known = [f"{kind} ({FORMS[kind]})" for kind in FORMS if values.ndim in _AXES.get(kind, ())]
        raise ValueError(
            f"{name} is of shape {list(values.shape)} in each example, which is at least 2 axes"
            f" unless its kind is stated ({_FIELDS}): {'; '.join(known) or 'none has no axis'}"
        )
    return ModalitySpec.from_shape((1,) * values.ndim).kind


def kept(
    name: str, values: np.ndarray, kind: Kind, vocabulary: Vocabulary | None = None
) -> np.ndarray:
    """Converts one example from the form in which it is given to `[*lengths, features]`.

    Args:
      name: Name of the modality in errors.
      values: Numbers in a form of `FORMS`; a masked array stays masked.
      kind: Kind of the modality.
      vocabulary: Vocabulary of a text.

    Raises:
      ValueError: If the kind has another form, or a text has no vocabulary.
    """
    axes = _AXES.get(kind, (max(values.ndim, 4),))
    wrong = kind == "events" and values.shape[-1:] != (3,)
    if wrong or values.ndim not in axes or (values.dtype.kind == "U") != (kind == "text"):
        raise ValueError(
            f"{name} is {_found(values)}; the kind {kind} is {FORMS[kind]}{_hint(values)}"
        )
    if kind == "text":
        if vocabulary is None:
            raise ValueError(f"{name} is text, and there is no vocabulary for it")
        return vocabulary.encode(str(values))[:, None]
    if kind == "tokens" and values.dtype.kind not in "iu":
        raise ValueError(f"{name} is {values.dtype}; the kind tokens is {FORMS['tokens']}")
    if kind == "channels_first":
        return np.moveaxis(values, 0, -1)
    if values.ndim == axes[-1] and kind not in ("vector", "tokens"):
        return values
    return values[None] if kind in ("vector", "embedding") else values[..., None]


def _found(values: np.ndarray) -> str:
    if values.dtype.kind != "U":
        return f"of shape {list(values.shape)}"
    return "a string" if not values.ndim else f"strings of shape {list(values.shape)}"


def _hint(values: np.ndarray) -> str:
    return "; state the kind text" if values.dtype.kind == "U" and not values.ndim else ""


def kept_shape(name: str, shape: tuple[int, ...], dtype: np.dtype, kind: Kind) -> tuple[int, ...]:
    """Shape of `kept` for an example of a shape and type, without its values."""
    return kept(name, np.broadcast_to(np.zeros((), dtype), shape), kind).shape


def given_axes(spec: ModalitySpec, shape: tuple[int, ...]) -> int:
    """Number of axes of one example as it is given.

    Args:
      spec: Shape of the modality.
      shape: Shape of one or many examples; a grey image may have its axis of channels, or not.
    """
    if spec.kind == "text":
        return 0
    if spec.kind in ("vector", "tokens") or (spec.kind == "embedding" and spec.lengths == (1,)):
        return 1
    grey = spec.kind == "image" and spec.features == 1 and shape[-1:] != (1,)
    return len(spec.shape) - grey


def unstandardised(
    kinds: Mapping[str, Kind], standardise: Mapping[str, bool], policy: NotFinite
) -> list[str]:
    """Names the modalities whose values are used as they are.

    Args:
      kinds: Modality name to its kind.
      standardise: Modality name to whether it is standardised, where that is stated.
      policy: Treatment of numbers that are not finite.

    Raises:
      ValueError: If ids are to be standardised, or the policy needs means that are not computed.
    """
    ids = [name for name, kind in kinds.items() if kind in IDS]
    if wrong := [name for name in ids if standardise.get(name)]:
        raise ValueError(f"standardise: {wrong[0]} is of kind {kinds[wrong[0]]}, which has no mean")
    names = [
        name
        for name, kind in kinds.items()
        if name not in ids and not standardise.get(name, kind != "embedding")
    ]
    events = [name for name, kind in kinds.items() if kind == "events"]
    if wrong := [name for name in events if name in names]:
        raise ValueError(f"standardise: {wrong[0]} is of kind events, which always is")
    if policy == "mean" and (wrong := events + names):
        raise ValueError(
            f"not_finite='mean' puts in the mean of a feature, and {wrong[0]}, of kind"
            f" {kinds[wrong[0]]}, is not standardised by feature; allowed are error, zero and drop"
        )
    return ids + names


def ids_in(values: np.ndarray, kind: Kind) -> np.ndarray:
    """Returns the ids among the values of an example, `[*lengths, features]`."""
    return values[..., 1 if kind == "events" else 0]


def check_ids(identity: Any, name: str, values: np.ndarray, spec: ModalitySpec) -> None:
    """Raises ValueError unless all ids of an example are in the table of its modality."""
    ids, size = ids_in(values, spec.kind), spec.vocabulary
    outside = ids[(ids < 0) | (ids >= size) | (ids != np.floor(ids))]
    if outside.size:
        raise ValueError(
            f"example {identity!r}: {name} holds the id {outside[0]:g}; expected 0 to {size - 1},"
            " the largest of the training split unless vocabulary states the number of ids"
        )
