"""Kinds of inputs: the form in which they are given, and `[*lengths, features]`, which is kept.

| kind | one example, as given | kept as | tokens | standardised |
| --- | --- | --- | --- | --- |
| `series` | `[length, features]`, `[length]` | `[length, features]` | patches | by feature |
| `image` | `[height, width, channels]`, `[height, width]` | channels last | patches | by channel |
| `channels_first` | `[channels, height, width]` | channels last | patches | by channel |
| `video` | `[length, ..., features]` | as given | patches | by feature |
| `vector` | `[columns]` | `[1, columns]` | groups of columns | by column |
| `embedding` | `[features]`, `[length, features]` | `[length, features]` | patches | if asked |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from sft_jax.plugins import suggest
from sft_jax.structs import Kind, ModalitySpec, NotFinite

FORMS: Mapping[Kind, str] = {
    "series": "[length, features], or [length] of one feature",
    "image": "[height, width, channels], or [height, width] of grey images",
    "channels_first": "[channels, height, width]",
    "video": "[length, ..., features] of at least 4 axes",
    "vector": "[columns]",
    "embedding": "[features], or [length, features]",
}
"""Form of one example of each kind, as it is given."""

_AXES: Mapping[Kind, tuple[int, ...]] = {
    "series": (1, 2),
    "image": (2, 3),
    "channels_first": (3,),
    "vector": (1,),
    "embedding": (1, 2),
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
    """Tells the kind of an example by its number of axes.

    Raises:
      ValueError: If several kinds have so few axes; lists them.
    """
    if values.ndim < 2:
        known = [f"{kind} ({FORMS[kind]})" for kind in FORMS if values.ndim in _AXES.get(kind, ())]
        raise ValueError(
            f"{name} is of shape {list(values.shape)} in each example, which is at least 2 axes"
            f" unless its kind is stated ({_FIELDS}): {'; '.join(known) or 'none has no axis'}"
        )
    return ModalitySpec.from_shape((1,) * values.ndim).kind


def kept(name: str, values: np.ndarray, kind: Kind) -> np.ndarray:
    """Converts one example from the form in which it is given to `[*lengths, features]`.

    Args:
      name: Name of the modality in errors.
      values: Numbers in a form of `FORMS`; a masked array stays masked.
      kind: Kind of the modality.

    Raises:
      ValueError: If the kind has another form.
    """
    axes = _AXES.get(kind, (max(values.ndim, 4),))
    if values.ndim not in axes:
        raise ValueError(
            f"{name} is of shape {list(values.shape)}; the kind {kind} is {FORMS[kind]}"
        )
    if kind == "channels_first":
        return np.moveaxis(values, 0, -1)
    if values.ndim == axes[-1] and kind != "vector":
        return values
    return values[None] if kind in ("vector", "embedding") else values[..., None]


def kept_shape(name: str, shape: tuple[int, ...], kind: Kind) -> tuple[int, ...]:
    """Shape of `kept` for an example of a shape, without its values."""
    return kept(name, np.broadcast_to(np.int8(0), shape), kind).shape


def given_axes(spec: ModalitySpec, shape: tuple[int, ...]) -> int:
    """Number of axes of one example as it is given.

    Args:
      spec: Shape of the modality.
      shape: Shape of one or many examples; a grey image may have its axis of channels, or not.
    """
    if spec.kind == "vector" or (spec.kind == "embedding" and spec.lengths == (1,)):
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
      ValueError: If the policy needs means that are not computed.
    """
    names = [name for name, kind in kinds.items() if not standardise.get(name, kind != "embedding")]
    if names and policy == "mean":
        raise ValueError(
            f"not_finite='mean' puts in the mean of the statistics, and {names[0]} is not"
            " standardised; allowed are error, zero and drop, or standardise it"
        )
    return names
