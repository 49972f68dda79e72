"""Derived modalities: rows of columns that functions compute from series.

A rule `FUNCTION:SOURCE`, such as `summary:accelerometer`, names a function and the modality that it
reads. The function is one of `FUNCTIONS`, or the import path `package.module:function` of another.
It maps the real steps of an example, `[steps, features]` float64, to `[columns]` finite numbers.
There is at least one step, and the number of columns is the same for any number of steps.

A derived modality is a series of one step, `[1, columns]`. So it is one token, standardised by
column. An example without its source lacks it. Numbers that are not finite are treated before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sft_jax import plugins
from sft_jax.data.checks import check_shapes
from sft_jax.data.records import RawData
from sft_jax.data.standardisation import finite_steps
from sft_jax.structs import Kind, ModalitySpec

_OCTAVES = 6


def summary(values: np.ndarray) -> np.ndarray:
    """Computes 12 statistics of each feature of a series.

    These are the mean, minimum, quartiles, maximum, root of the deviation, and roots of the
    amplitudes in six octaves: 1, 2 to 3, ... and 32 to 63 cycles per series. The spectrum is that
    of the series less its mean, with a Hann taper. Once the columns are standardised, units and
    offsets of the features have no effect.

    Args:
      values: `[steps, features]` floats.

    Returns:
      `[12 * features]` float64; each statistic of all features, then the next one.
    """
    shifted = values - values[0]  # A constant is exactly 0, also after rounding.
    centred = shifted - shifted.mean(axis=0)
    taper = np.hanning(len(values) + 2)[1:-1]
    taper /= np.linalg.norm(taper)
    power = np.abs(np.fft.rfft(centred * taper[:, None], axis=0)) ** 2
    octaves = [power[2**i : 2 ** (i + 1)].sum(axis=0) for i in range(_OCTAVES)]
    quantiles = np.quantile(values, (0, 0.25, 0.75, 1), axis=0)
    deviation = np.sqrt(centred.std(axis=0))
    rows = [values.mean(axis=0), *quantiles, deviation, *np.power(octaves, 0.25)]
    return np.concatenate(rows)


FUNCTIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"summary": summary}
"""Functions of this library by name. Prepared data tells them by name alone: a function whose
results would change gets another one."""


def check_rules(rules: Mapping[str, str], field: str = "data.derived") -> dict[str, str]:
    """Checks the form of rules; functions of other packages are imported when they are needed.

    Args:
      rules: Name of each derived modality to its rule.
      field: Name of the argument in errors.

    Raises:
      ValueError: If a name is empty, a rule has another form, or its function is unknown.
    """
    for name, rule in rules.items():
        where = f"{field}.{name}={rule!r}"
        function, _, source = str(rule).rpartition(":")
        if not str(name).strip() or not function or not source:
            raise ValueError(f"{where}: expected a name and FUNCTION:SOURCE, as in summary:motion")
        if function not in FUNCTIONS and not plugins.is_import_path(function):
            raise ValueError(
                f"{where}: unknown function; {plugins.suggest(function, [*FUNCTIONS])}, or an"
                " import path such as 'package.module:function'"
            )
    return dict(rules)


def sentences(rules: Mapping[str, str]) -> list[str]:
    """Describes rules to whoever gives the inputs to a model."""
    parts = {name: rule.rpartition(":") for name, rule in rules.items()}
    return [f"{n} is computed from {own[2]} by {own[0]}" for n, own in parts.items()]


def source_name(rule: str) -> str:
    """Returns the name of the modality that a rule reads."""
    return rule.rpartition(":")[2]


def all_shapes(
    rules: Mapping[str, str],
    shapes: Mapping[str, Sequence[int]],
    kinds: Mapping[str, Kind],
    field: str = "data.derived",
) -> dict[str, Sequence[int]]:
    """Adds the shapes of derived modalities to those of a dataset.

    Args:
      rules: Name of each derived modality to its rule.
      shapes: Modality name to its largest shape.
      kinds: Modality name to its kind, where that is not the one of its axes.
      field: Name of the argument in errors.

    Raises:
      ValueError: If there is no such source, it is no series, or a function is faulty.
    """
    added = dict(shapes)
    for name, rule in rules.items():
        source = source_name(rule)
        where = f"{field}.{name}={rule!r}"
        if source not in shapes or source in rules:
            known = plugins.suggest(source, [n for n in shapes if n not in rules])
            raise ValueError(f"{where}: there is no modality {source!r} to read; {known}")
        shape = shapes[source]
        kind = kinds.get(source) or ModalitySpec.from_shape(shape).kind
        if kind != "series":
            raise ValueError(f"{where}: {source} is of kind {kind}; expected a series")
        added[name] = _row(rule, np.zeros(shape), where).shape
    return added


def add_to(raw: RawData, rules: Mapping[str, str], field: str = "data.derived") -> RawData:
    """Adds derived modalities to the contents of a dataset; `clean_records` computes them.

    Raises:
      ValueError: If the dataset has a modality of the same name, or as `all_shapes` says.
    """
    if taken := [name for name in rules if name in raw.shapes]:
        raise ValueError(
            f"{field}.{taken[0]}: the data has a modality of this name already; choose another"
        )
    shapes = {n: tuple(s) for n, s in all_shapes(rules, raw.shapes, raw.kinds, field).items()}
    own: dict[str, Kind] = dict.fromkeys(rules, "series")
    kinds = {**raw.kinds, **own}
    return dataclasses.replace(raw, shapes=shapes, kinds=kinds, derived=dict(rules))


def complete(
    example: Mapping[str, Any], rules: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> Mapping[str, Any]:
    """Adds the derived modalities that an example lacks, if it has their sources.

    Args:
      example: Example with `id`, `inputs` and perhaps `masks`, not standardised.
      rules: Name of each derived modality to its rule.
      shapes: Modality name to its largest shape.

    Returns:
      The example with `[1, columns]` float64 for each derived modality.

    Raises:
      ValueError: If a source holds a number that is not finite, or a function is faulty.
    """
    added = {}
    for name, rule in rules.items():
        if name in example["inputs"] or source_name(rule) not in example["inputs"]:
            continue
        values, real = finite_steps(example, source_name(rule))
        if real.any():
            where = f"example {example['id']!r}: {name}={rule!r}"
            added[name] = _row(rule, values[real].astype(np.float64), where)
    check_shapes(example["id"], added, shapes)
    return {**example, "inputs": {**example["inputs"], **added}} if added else example


def _row(rule: str, values: np.ndarray, where: str) -> np.ndarray:
    """Computes `[1, columns]` float64, which keeps the digits of numbers far from 0."""
    name = rule.rpartition(":")[0]
    function = FUNCTIONS.get(name) or plugins.load(name, where)
    row = np.asarray(function(values), np.float64)
    if row.ndim != 1 or not row.size or not np.isfinite(row).all():
        raise ValueError(
            f"{where}: expected [columns] finite numbers from {name}, got shape {list(row.shape)}"
            f" from {row.min(initial=np.inf):g} to {row.max(initial=-np.inf):g}"
        )
    return row[None]
