"""Conversion of configs: command lines, ConfigDicts and JSON to `sft_jax.config` and back."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ml_collections
import pydantic

from sft_jax.config import ExperimentConfig
from sft_jax.data import registry
from sft_jax.plugins import suggest
from sft_jax.structs import DEFAULT_K, OTHERS

_BUDGET = re.compile(r"--?config\.model\.k\.(\w+)(?:=|$)")

_ADAPTER = pydantic.TypeAdapter(ExperimentConfig)

T = TypeVar("T")


class ConfigError(ValueError):
    """A config with errors; the message lists every problem and the allowed values."""


def to_config_dict(config: ExperimentConfig) -> ml_collections.ConfigDict:
    """Converts a config to a locked ConfigDict, which rejects unknown keys."""
    return ml_collections.ConfigDict(dataclasses.asdict(config)).lock()


def to_json(config: ExperimentConfig) -> dict[str, Any]:
    """Converts a config to plain JSON values."""
    return _ADAPTER.dump_python(config, mode="json")


def from_mapping(mapping: Mapping[str, Any]) -> ExperimentConfig:
    """Converts nested mappings to a config and checks it.

    Args:
      mapping: Dict, such as one read from JSON, or ConfigDict. Missing keys take their defaults.

    Raises:
      ConfigError: If the config is invalid; the message lists every unknown key, wrong type and
        value out of range.
    """
    if isinstance(mapping, ml_collections.ConfigDict):
        mapping = mapping.to_dict()
    try:
        # Strict validation of JSON allows exactly the values that a config file can hold.
        text = json.dumps(mapping)
    except TypeError as error:
        raise ConfigError(f"invalid config: it must be JSON, but: {error}") from None
    try:
        return _ADAPTER.validate_json(text)
    except pydantic.ValidationError as error:
        dataset = _dataset_name(json.loads(text))
        problems = [_describe(problem, dataset) for problem in error.errors(include_url=False)]
        raise ConfigError("\n".join(["invalid config:", *dict.fromkeys(problems)])) from None


def resolved(config: T) -> T:
    """Makes the path of each folder in a config or section absolute.

    Every process and later command then refers to the same folder. `~` is the home directory.
    URLs and empty paths are not changed.
    """
    section: Any = config
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if field.metadata.get("folder"):
            changed[field.name] = _absolute(value)
        elif dataclasses.is_dataclass(value):
            changed[field.name] = resolved(value)
    replaced: T = dataclasses.replace(section, **changed)
    return replaced


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path)) if path and "://" not in path else path


def folders(config: Any) -> list[str]:
    """Names the fields of a config of data that hold folders."""
    return [field.name for field in dataclasses.fields(config) if field.metadata.get("folder")]


def differences(
    old: ExperimentConfig, new: ExperimentConfig, *, results_only: bool = False
) -> list[str]:
    """Lists the fields in which two configs differ, as `key: old value -> new value`.

    Args:
      old: First config.
      new: Second config.
      results_only: Whether to leave out fields marked `MAY_CHANGE`, which do not affect results.
    """
    before, after = _flatten(to_json(old)), _flatten(to_json(new))
    ignored = {*_may_change(old), *_may_change(new)} if results_only else set()
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before | after)
        if before.get(key) != after.get(key)
        and not any(key == prefix or key.startswith(f"{prefix}.") for prefix in ignored)
    ]


def _may_change(section: Any, prefix: str = "") -> Iterator[str]:
    """Yields the keys of the fields and sections that are marked `MAY_CHANGE`."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if field.metadata.get("may_change"):
            yield prefix + field.name
        elif dataclasses.is_dataclass(value):
            yield from _may_change(value, f"{prefix}{field.name}.")


def split_budgets(config: ml_collections.ConfigDict, flags: Sequence[str]) -> None:
    """Makes `model.k` a mapping, in place, where flags set it for some modalities.

    Args:
      config: Config of an experiment.
      flags: Command line, such as `--config.model.k.image=4`.

    Raises:
      ConfigError: If another flag sets one number for all.
    """
    names = [match[1] for flag in flags if (match := _BUDGET.match(flag))]
    if not names or "k" not in config.get("model", {}):
        return
    if whole := [flag for flag in flags if re.match(r"--?config\.model\.k(=|$)", flag)]:
        raise ConfigError(
            f"{whole[0]} is for all modalities, beside model.k.{names[0]}; the number of those that"
            f" are not named is --config.model.k.{OTHERS}"
        )
    before = config.model.k
    known = before.to_dict() if isinstance(before, ml_collections.ConfigDict) else {OTHERS: before}
    rest = known.get(OTHERS, DEFAULT_K)
    with config.unlocked(), config.model.ignore_type():
        config.model.k = dict.fromkeys(names, rest) | known


def unknown_overrides(config: ml_collections.ConfigDict, flags: Sequence[str]) -> list[str]:
    """Describes flags `--config.KEY.KEY=VALUE` whose key the config does not have."""
    problems = []
    for flag in flags:
        path = flag.split("=", 1)[0].split(".")[1:]
        section: Any = config
        for key in path:
            known = list(section) if isinstance(section, ml_collections.ConfigDict) else []
            if key not in known:
                problems.append(f"unknown config key {'.'.join(path)!r}: {suggest(key, known)}")
                break
            section = section[key]
    return problems


def _dataset_name(values: Any) -> object:
    """Reads the name of the dataset from a config that may be invalid."""
    data = values.get("data", {}) if isinstance(values, dict) else {}
    return data.get("name", registry.DEFAULT) if isinstance(data, dict) else None


def _describe(problem: Mapping[str, Any], dataset: object) -> str:
    """Formats a problem that pydantic reports as a line of an error message."""
    location = [str(part) for part in problem["loc"]] or [""]
    if problem["type"] == "unexpected_keyword_argument":
        *parents, last = location
        if parents == ["data"]:
            names = registry.field_names(dataset)
        else:
            section: Any = ExperimentConfig()
            for parent in parents:
                section = getattr(section, parent)
            names = [field.name for field in dataclasses.fields(section)]
        return f"  {'.'.join(location)}: unknown key; {suggest(last, names)}"
    if problem["type"] == "value_error":
        text = str(problem["ctx"]["error"])
        where = ".".join(location)
        # A message that names the field needs no location before it.
        return (
            f"  {text}"
            if text.startswith(f"{where}.")
            else f"  {where}: {text}".replace(" : ", " ")
        )
    # pydantic adds the branch of a union to the location, which is not a key of the config.
    keys = [part for part in location if part.isidentifier()]
    return f"  {'.'.join(keys)}: {problem['msg']}, got {problem['input']!r}"


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
