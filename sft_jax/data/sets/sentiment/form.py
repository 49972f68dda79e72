"""Detection and checks of the form of feature files of CMU-MOSI and CMU-MOSEI."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from sft_jax.data.records import DataFileError

MODALITIES = ("vision", "audio", "text")
SPLITS = ("train", "valid", "test")

Variant = Literal["mult_aligned", "mult_noalign", "mmsa_aligned", "mmsa_unaligned"]


@dataclasses.dataclass(frozen=True)
class SentimentSplit:
    """A split whose form has been checked.

    Attributes:
      features: Modality name to `[n, steps, features]`.
      labels: `[n]` float64.
      ids: Names of the `n` examples, all different.
      text_mask: `[n, steps]` booleans, if the file has a mask.
      lengths: Modality name to `[n]` integers, for modalities whose lengths are in the file.
    """

    features: dict[str, np.ndarray]
    labels: np.ndarray
    ids: list[str]
    text_mask: np.ndarray | None
    lengths: dict[str, np.ndarray]


def raise_problems(path: pathlib.Path, problems: Sequence[str]) -> None:
    """Raises DataFileError that lists all problems, if there are any."""
    if problems:
        raise DataFileError(
            f"{path} is not a file of MulT's or MMSA's form:"
            + "".join(f"\n- {problem}" for problem in problems)
        )


def checked_form(path: pathlib.Path, content: Any) -> tuple[Variant, dict[str, SentimentSplit]]:
    """Detects the variant of a file, and extracts the required arrays.

    All other keys, and splits other than `SPLITS`, are ignored.

    Args:
      path: Path of the file, for messages.
      content: Pickled data.

    Raises:
      DataFileError: If the file has neither form; the message lists all faults.
    """
    contents = _splits_of(path, content)
    present = {key for split in contents.values() for key in split}
    mmsa = bool(present & {"text_bert", "regression_labels"})
    label_key = "regression_labels" if "regression_labels" in present else "labels"
    aligned = _steps_agree(contents["train"])
    keys = [*MODALITIES, label_key, "id"]
    if mmsa:
        aligned = aligned and not present & {"audio_lengths", "vision_lengths"}
        keys += ["text_bert"] if aligned else ["text_bert", "audio_lengths", "vision_lengths"]
    problems = _missing(contents, keys)
    splits = {
        name: _parsed(name, {key: split[key] for key in keys if key in split}, label_key, problems)
        for name, split in contents.items()
    }
    problems += _disagreements(splits)
    raise_problems(path, problems)
    if mmsa:
        return ("mmsa_aligned" if aligned else "mmsa_unaligned"), splits
    return ("mult_aligned" if aligned else "mult_noalign"), splits


def _splits_of(path: pathlib.Path, content: Any) -> dict[str, dict[Any, Any]]:
    if not isinstance(content, dict):
        raise DataFileError(
            f"{path} holds a {type(content).__name__}, expected a dict of the splits"
            f" {', '.join(SPLITS)}"
        )
    problems = [
        f"no split {name!r}: there are {_listed(content)}"
        if name not in content
        else f"{name}: a {type(content[name]).__name__}, expected a dict"
        for name in SPLITS
        if not isinstance(content.get(name), dict)
    ]
    raise_problems(path, problems)
    return {name: content[name] for name in SPLITS}


def _missing(contents: Mapping[str, Mapping[Any, Any]], keys: Sequence[str]) -> list[str]:
    return [
        f"{name}: no key {key!r}: there are {_listed(content)}"
        for name, content in contents.items()
        for key in keys
        if key not in content
    ]


def _listed(keys: Mapping[Any, Any]) -> str:
    return ", ".join(str(key)[:40] for key in list(keys)[:20]) or "none"


def _parsed(
    name: str, content: Mapping[str, Any], label_key: str, problems: list[str]
) -> SentimentSplit:
    """Extracts the valid arrays, and adds a problem for each of the others."""
    features = {
        key: content[key]
        for key in MODALITIES
        if key in content and _check_features(f"{name}/{key}", content[key], problems)
    }
    counts = {key: _count(value) for key, value in content.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{key} {count}" for key, count in counts.items())
        problems.append(f"{name}: the keys differ in the number of examples: {listed}")
    labels, mask, lengths = np.empty(0), None, {}
    if label_key in content:
        labels = _labels(f"{name}/{label_key}", content[label_key], problems)
    if "text_bert" in content and "text" in features:
        mask = _text_mask(f"{name}/text_bert", content["text_bert"], features["text"], problems)
    for key, values in features.items():
        if f"{key}_lengths" in content:
            value, steps = content[f"{key}_lengths"], values.shape[1]
            lengths[key] = _lengths(f"{name}/{key}_lengths", value, steps, problems)
    ids = _ids(content["id"]) if counts.get("id") else []
    return SentimentSplit(features, labels, ids, mask, lengths)


def _count(value: Any) -> int | None:
    if isinstance(value, np.ndarray):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, list | tuple) else None


def _form(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return f"a {type(value).__name__}"


def _check_features(name: str, value: Any, problems: list[str]) -> bool:
    if (
        isinstance(value, np.ndarray)
        and value.dtype.kind in "iuf"
        and value.ndim == 3
        and 0 not in value.shape
    ):
        return True
    problems.append(
        f"{name}: {_form(value)}, expected an array of numbers of shape (examples, steps,"
        " features), at least one of each"
    )
    return False


def _numbers(value: Any) -> np.ndarray | None:
    """Converts values to `[n]` float64; None unless there is one number for each example."""
    if isinstance(value, list | tuple):
        if not all(isinstance(item, int | float | np.number) for item in value):
            return None
        value = np.array(value, np.float64)
    if _count(value) != np.size(value) or value.dtype.kind not in "iuf":
        return None
    return value.reshape(-1).astype(np.float64)


def _labels(name: str, value: Any, problems: list[str]) -> np.ndarray:
    labels = _numbers(value)
    if labels is None:
        problems.append(f"{name}: {_form(value)}, expected a number for each example")
        return np.empty(0)
    bad = np.flatnonzero(~(np.abs(labels) <= 3))
    problems += [
        f"{name}: example {row} has label {labels[row]:g}, expected a number from -3 to 3"
        for row in bad[:3]
    ]
    if len(bad) > 3:
        problems.append(f"{name}: {len(bad) - 3} more labels that are no number from -3 to 3")
    return labels


def _text_mask(name: str, value: Any, text: np.ndarray, problems: list[str]) -> np.ndarray | None:
    shape = (len(text), 3, text.shape[1])
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or value.shape != shape:
        expected = f"numbers of shape {shape}: tokens, mask, segments"
        problems.append(f"{name}: {_form(value)}, expected {expected}")
        return None
    bad = np.flatnonzero(~np.isin(value[:, 1], (0, 1)).all(axis=1))
    if len(bad):
        problems.append(f"{name}: the mask of example {bad[0]} is not made of 0 and 1")
    return value[:, 1].astype(bool)


def _lengths(name: str, value: Any, steps: int, problems: list[str]) -> np.ndarray:
    lengths = _numbers(value)
    if lengths is None:
        problems.append(f"{name}: {_form(value)}, expected a number for each example")
        return np.empty(0, np.int64)
    bad = np.flatnonzero(~((lengths >= 0) & (lengths <= steps) & (lengths % 1 == 0)))
    if len(bad):
        problems.append(
            f"{name}: example {bad[0]} has length {lengths[bad[0]]:g}, expected a whole number"
            f" from 0 to {steps}"
        )
        return np.empty(0, np.int64)
    return lengths.astype(np.int64)


def _steps_agree(features: Mapping[Any, Any]) -> bool:
    """Returns whether all modalities with a steps axis have the same number of steps."""
    values = [features.get(key) for key in MODALITIES]
    arrays = [value for value in values if isinstance(value, np.ndarray) and value.ndim == 3]
    return len({array.shape[1] for array in arrays}) == 1


def _disagreements(splits: Mapping[str, SentimentSplit]) -> list[str]:
    problems = []
    for key in MODALITIES:
        sizes = {
            name: split.features[key].shape[2]
            for name, split in splits.items()
            if key in split.features
        }
        if len(set(sizes.values())) > 1:
            problems.append(f"{key}: the splits differ in the number of features: {sizes}")
    if len({_steps_agree(split.features) for split in splits.values() if split.features}) > 1:
        steps = {
            name: {key: values.shape[1] for key, values in split.features.items()}
            for name, split in splits.items()
        }
        problems.append(f"aligned in some splits and not in others, by their steps: {steps}")
    return problems


def _ids(values: Sequence[Any]) -> list[str]:
    """Makes readable names, and appends the position to names that are not unique."""
    names = ["_".join(_text(part) for part in _parts(value)) for value in values]
    counts = collections.Counter(names)
    unique = [f"{name}#{row}" if counts[name] > 1 else name for row, name in enumerate(names)]
    if len(set(unique)) < len(unique):
        return [f"{name}#{row}" for row, name in enumerate(names)]
    return unique


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, np.ndarray):
        return value.reshape(-1).tolist()
    return value if isinstance(value, list | tuple) else (value,)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)
