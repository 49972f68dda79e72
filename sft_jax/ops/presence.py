"""Which examples have a modality at all."""

from __future__ import annotations

from jaxtyping import Array, Bool


def is_present(mask: Bool[Array, "b _ ..."]) -> Bool[Array, " b"]:
    """True for an example of which any position is real; `mask` is False at padding."""
    return mask.any(axis=tuple(range(1, mask.ndim)))
