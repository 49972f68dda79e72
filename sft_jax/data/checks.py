"""Checks of examples, with errors that name the example and what was expected of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sft_jax.structs import CLASS_TASKS, Task


def check_label(
    identity: str,
    label: int | np.ndarray,
    task: Task,
    classes: Sequence[str],
    largest: float = np.inf,
) -> None:
    """Raises ValueError unless a label is one of the task's.

    Args:
      identity: id of the example.
      label: class index, or `[c]` numbers.
      task: what labels are.
      classes: names of the classes, labels or numbers.
      largest: the largest absolute value that a number to predict may have.
    """
    values, count = np.asarray(label), len(classes)
    if task in CLASS_TASKS:
        allowed = f"one of the {count} classes"
        good = values.shape == () and values.dtype.kind in "iu" and int(values) in range(count)
    elif values.shape != (count,) or values.dtype.kind not in "biuf":
        allowed, good = f"an array of {count} numbers", False
    elif task == "multi_label":
        allowed, good = "made of 0 and 1", bool(np.isin(values, (0, 1)).all())
    else:
        allowed = "finite" if largest == np.inf else f"from {-largest:g} to {largest:g}"
        good = bool((np.isfinite(values) & (np.abs(values) <= largest)).all())
    if not good:
        raise ValueError(f"example {identity!r}: label {values.tolist()} is not {allowed}")


def check_shapes(
    identity: str, inputs: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ValueError unless inputs are of known modalities and within their shapes.

    Args:
      identity: id of the example.
      inputs: modality name to `[..., features]`.
      shapes: modality name to the largest shape that is allowed; the last axis must be equal.
    """
    for name, values in inputs.items():
        if name not in shapes:
            raise ValueError(
                f"example {identity!r}: unknown modality {name!r}, known are {sorted(shapes)}"
            )
        found, largest = np.shape(values), shapes[name]
        fits = len(found) == len(largest) and found[-1] == largest[-1]
        if not fits or any(f > most for f, most in zip(found, largest, strict=True)):
            axes = [f"up to {most}" for most in largest[:-1]]
            raise ValueError(
                f"example {identity!r}: {name} is of shape {list(found)}, expected"
                f" [{', '.join([*axes, str(largest[-1])])}]"
            )
        if np.asarray(values).dtype.kind not in "biuf":
            raise ValueError(
                f"example {identity!r}: {name} is {np.asarray(values).dtype}, expected numbers"
            )


def check_mask(identity: str, name: str, mask: np.ndarray, values: np.ndarray) -> None:
    """Raises ValueError unless a mask is boolean and its input without the last axis in shape."""
    if mask.dtype != bool:
        raise ValueError(f"example {identity!r}: mask of {name} is {mask.dtype}, expected bool")
    if mask.shape != values.shape[:-1]:
        raise ValueError(
            f"example {identity!r}: mask of {name} is of shape {list(mask.shape)}, expected"
            f" {list(values.shape[:-1])}"
        )


def check_finite(identity: str, name: str, values: np.ndarray, mask: np.ndarray) -> None:
    """Raises ValueError if a number that is not padding is NaN or infinite."""
    bad = mask & ~np.isfinite(values).all(axis=-1)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        where = ", ".join(map(str, first))
        raise ValueError(
            f"example {identity!r}: {name} is not finite at step {where}: {values[first]}"
        )
