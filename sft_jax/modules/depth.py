"""Models that compute fewer of their blocks than they were trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_depth(model: Any, depth: int | Mapping[str, int]) -> Any:
    """Clones a model that computes some of its blocks; it takes the same parameters.

    The blocks of a modality are spread evenly from the first to the last, as with "every other"
    of Fan et al. 2020 (arXiv 1909.11556). One block is the last. A model loses the least accuracy
    if it was trained with `layer_drop`.

    Args:
      model: Model that was trained, a `sft_jax.modules.mbt.BottleneckTransformer`.
      depth: Number of blocks of each modality, for all or by name; from 1 to all of them.

    Raises:
      ValueError: If the model can't leave out blocks, or has not as many.
    """
    if not hasattr(model, "layers"):
        raise ValueError(
            f"depth={depth}: {type(model).__name__} computes all of its blocks;"
            " BottleneckTransformer alone can leave some out"
        )
    total, names = model.n_pre + model.n_post, sorted(model.modalities)
    each = depth if isinstance(depth, Mapping) else dict.fromkeys(names, depth)
    if set(each) != set(names):
        raise ValueError(f"depth names {sorted(each)}, the modalities are {names}")
    if wrong := {name: own for name, own in each.items() if not 1 <= own <= total}:
        name, own = next(iter(wrong.items()))
        raise ValueError(f"depth={own} for modality {name!r}: it must be from 1 to {total}")
    layers = {name: spread_blocks(total, each[name]) for name in names}
    cloned = model.clone(layers=None if {*each.values()} == {total} else layers)
    if problems := cloned._problems():
        raise ValueError(f"{type(model).__name__}: " + "; ".join(problems))
    return cloned


def spread_blocks(total: int, count: int) -> tuple[int, ...]:
    """Spreads `count` of `total` blocks evenly from the first to the last; one is the last."""
    if count == 1:
        return (total - 1,)
    return tuple(round(i * (total - 1) / (count - 1)) for i in range(count))
