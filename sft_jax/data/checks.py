"""Checks of examples and names; the errors give the place, the value and the expected value."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from sft_jax.structs import CLASS_TASKS, Task

_LARGEST_WHOLE = 2**53
"""Largest number up to which float64 holds every whole number."""


def in_order(values: Any) -> Any:
    """Turns tables of other libraries, which have indices of their own, into arrays."""
    if isinstance(values, np.ndarray | list | tuple) or not hasattr(values, "__array__"):
        return values
    return np.asarray(values)


def checked_names(names: Sequence[Any] | np.ndarray, task: Task) -> tuple[str, ...]:
    """Checks the names of classes, labels or numbers, and turns them into text.

    Args:
      names: Ordered sequence of text or of integers.
      task: Kind of the labels.

    Raises:
      ValueError: If the names have no order or are too few. Also if a name is neither text nor an
        integer, is empty, or occurs twice.
    """
    if isinstance(names, str | bytes | Mapping | Set):
        raise ValueError(
            f"class_names={names!r} is a {type(names).__name__}; expected a list of names, in the"
            " order of the labels"
        )
    texts = list(in_order(names))
    for i, name in enumerate(texts):
        whole = isinstance(name, int | np.integer) and not isinstance(name, bool)
        if not isinstance(name, str) and not whole:
            raise ValueError(
                f"class_names[{i}] is {name!r}, of type {type(name).__name__}; expected text, or an"
                " integer"
            )
        # Strings of NumPy and of enumerations may print differently from plain text.
        texts[i] = str.__str__(name) if isinstance(name, str) else str(int(name))
        if not texts[i].strip():
            raise ValueError(f"class_names[{i}] is {texts[i]!r}; expected a name that can be read")
    if twice := [name for name, count in collections.Counter(texts).items() if count > 1]:
        raise ValueError(
            f"class_names hold {', '.join(map(repr, twice))} more than once; expected names that"
            " all differ"
        )
    least, what = (2, "classes") if task in CLASS_TASKS else (1, "name")
    if len(texts) < least:
        raise ValueError(f"class_names are {texts}; the task {task} needs at least {least} {what}")
    return tuple(texts)


def check_label(
    identity: str,
    label: int | np.ndarray,
    task: Task,
    classes: Sequence[str],
    largest: float = np.inf,
) -> None:
    """Raises ValueError unless a label is valid for the task.

    Args:
      identity: ID of the example.
      label: Class index, or `[c]` numbers.
      task: Kind of the labels.
      classes: Names of the classes, labels or numbers.
      largest: Largest absolute value that a number to predict may have.
    """
    if np.ma.is_masked(label):
        raise ValueError(f"example {identity!r}: its label is masked; leave such examples out")
    values, count = np.asarray(label), len(classes)
    if task in CLASS_TASKS:
        good = values.shape == () and values.dtype.kind in "iu" and int(values) in range(count)
        allowed = "" if good else _allowed_class(values, classes)
    elif values.shape != (count,) or values.dtype.kind not in "biuf":
        allowed, good = _allowed_numbers(values, task, classes), False
    elif task == "multi_label":
        allowed, good = "made of 0 and 1", bool(np.isin(values, (0, 1)).all())
    else:
        allowed = "finite as float32" if largest == np.inf else f"from {-largest:g} to {largest:g}"
        with np.errstate(over="ignore"):
            good = bool(
                (np.isfinite(values.astype(np.float32)) & (np.abs(values) <= largest)).all()
            )
    if not good:
        raise ValueError(f"example {identity!r}: label {values.tolist()!r} is not {allowed}")


def _allowed_class(values: np.ndarray, classes: Sequence[str]) -> str:
    """Describes a valid label of one class, and how to convert the given value to it."""
    hint = ""
    if values.shape == () and values.dtype.kind in "UOiu" and str(values) in classes:
        hint = f"; of {str(values)!r} it is {classes.index(str(values))}"
    elif values.shape == (1,):
        hint = "; labels are of shape [n], not [n, 1]"
    elif values.shape == (len(classes),) and values.dtype.kind in "biuf":
        hint = "; of one-hot labels it is labels.argmax(-1)"
    elif values.dtype.kind in "bf":
        hint = f", not {values.dtype}; labels.astype(int) gives it of whole numbers"
    return (
        f"one of the {len(classes)} classes: expected the index of one, an integer from 0 to"
        f" {len(classes) - 1}{hint}"
    )


def _allowed_numbers(values: np.ndarray, task: Task, classes: Sequence[str]) -> str:
    """Describes a valid label of several numbers, and how to convert the given value to it."""
    hint = ", one for each of class_names"
    if task == "multi_label":
        hint = ": 1 for each of class_names that the example has, and 0 for the others"
        names = set(map(str, values.reshape(-1))) if values.dtype.kind in "UO" else set()
        if names.intersection(classes):
            hint += f", so here {[int(name in names) for name in classes]}"
    elif values.shape == ():
        hint += "; labels are of shape [n, 1], not [n]"
    return f"an array of {len(classes)} numbers{hint}"


def check_shapes(
    identity: str, inputs: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ValueError unless all inputs are numbers of known modalities and fit their shapes.

    Args:
      identity: ID of the example.
      inputs: Modality name to `[..., features]`.
      shapes: Modality name to the largest shape that is allowed; the last axis must be equal.
    """
    for name, values in inputs.items():
        if name not in shapes:
            raise ValueError(
                f"example {identity!r}: unknown modality {name!r}, known are {sorted(shapes)}"
            )
        shape, largest = np.shape(values), shapes[name]
        fits = len(shape) == len(largest) and shape[-1] == largest[-1]
        if not fits or any(size > most for size, most in zip(shape, largest, strict=True)):
            axes = [f"up to {most}" for most in largest[:-1]]
            raise ValueError(
                f"example {identity!r}: {name} is of shape {list(shape)}, expected"
                f" [{', '.join([*axes, str(largest[-1])])}]"
            )
        dtype = np.asarray(values).dtype
        if dtype.kind not in "biuf" and not np.can_cast(dtype, np.float32):
            times = (
                ": subtract a first time, and divide by np.timedelta64(1, 's')"
                if dtype.kind in "mM"
                else ""
            )
            raise ValueError(f"example {identity!r}: {name} is {dtype}, expected numbers{times}")


def real_steps(example: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values of one modality, 0 where a step is not real, and their mask.

    A step is real unless the mask of the example leaves it out, or it is masked in all of its
    features (`numpy.ma`). A number that is masked in a real step becomes NaN.

    Args:
      example: Example with `inputs`, and optionally `masks`, by modality name.
      name: Name of the modality.

    Returns:
      `[..., features]` numbers and `[...]` booleans.

    Raises:
      ValueError: If the mask does not fit the values, or float64 can't represent them.
    """
    identity, values = example["id"], example["inputs"][name]
    mask = example.get("masks", {}).get(name)
    mask = np.ones(np.shape(values)[:-1], bool) if mask is None else mask
    check_mask(identity, name, mask, values)
    missing = np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else None
    values = np.asarray(values)
    if missing is not None:
        mask = mask & ~missing.all(axis=-1)
        values = np.where(missing, values.dtype.type(0), values)
    if not mask.all():
        values = np.where(mask[..., None], values, values.dtype.type(0))
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and values.size:
        outermost = max(int(values.max()), -int(values.min()))
        if outermost > _LARGEST_WHOLE:
            raise ValueError(
                f"example {identity!r}: {name} holds {values.dtype} as large as {outermost};"
                " expected at most 2**53, up to where float64 tells whole numbers apart: subtract"
                " an offset, such as the first value"
            )
    if missing is not None and (in_part := missing & mask[..., None]).any():
        values = np.where(in_part, np.nan, values)
    return values, mask


def check_mask(identity: str, name: str, mask: np.ndarray, values: np.ndarray) -> None:
    """Raises ValueError unless a mask is boolean and has the shape of its input, less features."""
    if np.ma.is_masked(mask):
        raise ValueError(f"example {identity!r}: mask of {name} is itself masked")
    if mask.dtype != bool:
        raise ValueError(f"example {identity!r}: mask of {name} is {mask.dtype}, expected bool")
    if mask.shape != values.shape[:-1]:
        raise ValueError(
            f"example {identity!r}: mask of {name} is of shape {list(mask.shape)}, expected"
            f" {list(values.shape[:-1])}"
        )


def check_finite(identity: str, name: str, values: np.ndarray, mask: np.ndarray) -> None:
    """Raises ValueError if a real step holds a number that is NaN, infinite or beyond float32."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32, copy=False))
    if finite.all():
        return
    bad = mask & ~finite.all(axis=-1)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        where = ", ".join(map(str, first))
        raise ValueError(
            f"example {identity!r}: {name} is not finite at step {where}: {values[first]}"
        )
