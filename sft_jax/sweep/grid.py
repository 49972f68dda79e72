"""Combinations of values of config fields, from the text of a grid or the lines of a file."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from sft_jax import config_io
from sft_jax.config import ExperimentConfig
from sft_jax.runs.storage import AnyPath
from sft_jax.sweep.ranges import read_ranges

Combination: TypeAlias = Mapping[str, str]
"""Fields of a config such as `model.k`, and the text of their values."""

_MAX_LETTERS = 150
"""Largest number of letters in the name of a run."""

_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


def read_fields(text: str) -> dict[str, list[str]]:
    """Reads the fields of a grid and the texts of their values.

    Args:
      text: Fields with their values, such as `model.name=sft,mbt;model.k=1,4`. A comma within
        brackets or quotes belongs to its value.

    Raises:
      ValueError: If a part is not `FIELD=VALUE,VALUE`, or a field or value is repeated.
    """
    fields: dict[str, list[str]] = {}
    for part in _split(text, ";"):
        field, values = _field(part, "--grid", "FIELD=VALUE,VALUE, such as model.k=1,4")
        if field in fields:
            raise ValueError(f"--grid: {field} is there twice; give all of its values at once")
        fields[field] = _split(values, ",")
        if "" in fields[field]:
            raise ValueError(f"--grid: {part!r} has an empty value")
        if repeated := {v for v in fields[field] if fields[field].count(v) > 1}:
            raise ValueError(f"--grid: {field} has {', '.join(sorted(repeated))} more than once")
    return fields


def read_grid(text: str) -> list[Combination]:
    """Makes every combination of the values of a grid; the last field varies fastest.

    Args:
      text: See `read_fields`.

    Raises:
      ValueError: See `read_fields`. Also if the grid has a range of numbers.
    """
    fields = read_fields(text)
    if ranges := read_ranges(fields):
        raise ValueError(
            f"--grid: {', '.join(ranges)} has a range of numbers: give the number of runs to draw,"
            " such as --random=8"
        )
    return [
        dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())
    ]


def read_list(path: AnyPath) -> list[Combination]:
    """Reads a file with one combination a line, such as `model.name=sft; model.k=4`.

    Empty lines are left out, and what follows `#`.

    Raises:
      ValueError: If a part of a line is not `FIELD=VALUE`, or there is no line.
      OSError: If the file can't be read.
    """
    combinations: list[Combination] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if text := line.partition("#")[0].strip():
            where = f"--list: line {number} of {path}"
            parts = [_field(part, where, "FIELD=VALUE") for part in _split(text, ";")]
            if len(dict(parts)) < len(parts):
                raise ValueError(f"{where}: a field is there twice")
            combinations.append(dict(parts))
    if not combinations:
        raise ValueError(f"--list: {path} has no line with FIELD=VALUE")
    return combinations


def draw(combinations: Sequence[Combination], number: int, seed: int) -> list[Combination]:
    """Draws some of the combinations, each once, in their order.

    A larger number with the same seed draws the same combinations, and others.

    Args:
      combinations: Combinations to draw from.
      number: Number of combinations to draw.
      seed: Seed of the draw.

    Raises:
      ValueError: If there are fewer combinations, or the number is not positive.
    """
    if not 1 <= number <= len(combinations):
        raise ValueError(f"--random={number}: expected 1 to {len(combinations)}, the combinations")
    order = np.random.default_rng(seed).permutation(len(combinations))
    return [combinations[i] for i in sorted(order[:number])]


def name(combination: Combination) -> str:
    """Names the run of a combination, such as `model.name=sft,model.k=4`.

    Characters other than letters, digits and `_.+-` become `_`. A name that is too long ends in
    a digest.
    """
    parts = [
        f"{field}={re.sub(r'[^A-Za-z0-9_.+-]+', '_', value).strip('_') or 'empty'}"
        for field, value in combination.items()
    ]
    text = ",".join(parts)
    if len(text) <= _MAX_LETTERS:
        return text
    return f"{text[:_MAX_LETTERS]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def config_with(base: ml_collections.ConfigDict, combination: Combination) -> ExperimentConfig:
    """Makes the config of a combination; values are read like `--config.FIELD=VALUE`.

    Args:
      base: Config whose fields the combination replaces.
      combination: Fields and the text of their values.

    Raises:
      ConfigError: If a field is unknown, or the config is invalid.
      ValueError: If a value is not of the type that the field has in `base`.
    """
    overrides = [f"--config.{field}={value}" for field, value in combination.items()]
    copy = ml_collections.ConfigDict(base.to_dict())
    config_io.split_budgets(copy, overrides)
    if unknown := config_io.unknown_overrides(copy, overrides):
        raise config_io.ConfigError("\n".join(unknown))
    values = flags.FlagValues()
    argv = ["sweep", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", copy, flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, TypeError) as error:
        raise ValueError(str(error)) from None
    return config_io.from_mapping(values.config)


def _field(part: str, where: str, expected: str) -> tuple[str, str]:
    field, separator, values = part.partition("=")
    field = field.strip().removeprefix("config.")
    if not separator or not field or not values.strip():
        raise ValueError(f"{where}: {part!r}: expected {expected}")
    return field, values.strip()


def _split(text: str, separator: str) -> list[str]:
    """Splits text at a separator outside brackets and quotes, and strips the parts."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += _BRACKETS.get(character, 0)
        if character == separator and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
