"""Between command lines, ConfigDicts, JSON files and the dataclasses of `sft_jax.config`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ml_collections
import pydantic

from sft_jax.config import ExperimentConfig
from sft_jax.data import registry
from sft_jax.plugins import suggest

_ADAPTER = pydantic.TypeAdapter(ExperimentConfig)


T = TypeVar("T")


class ConfigError(ValueError):
    """A config that can't be used; the message lists every problem and what is allowed."""


def to_config_dict(config: ExperimentConfig) -> ml_collections.ConfigDict:
    """The config as a locked ConfigDict, which rejects keys that it does not have."""
    return ml_collections.ConfigDict(dataclasses.asdict(config)).lock()


def to_json(config: ExperimentConfig) -> dict[str, Any]:
    """The config as plain JSON values."""
    return _ADAPTER.dump_python(config, mode="json")


def from_mapping(mapping: Mapping[str, Any]) -> ExperimentConfig:
    """Checks nested mappings and makes them a config.

    Args:
      mapping: a dict, as from JSON, or a ConfigDict. Keys left out take their defaults.

    Raises:
      ConfigError: listing every unknown key, wrong type and value out of range.
    """
    if isinstance(mapping, ml_collections.ConfigDict):
        mapping = mapping.to_dict()
    try:
        # By way of JSON, whose strict types are those that a config file can hold.
        text = json.dumps(mapping)
    except TypeError as error:
        raise ConfigError(f"invalid config: it must be saved as JSON, but: {error}") from None
    try:
        return _ADAPTER.validate_json(text)
    except pydantic.ValidationError as error:
        dataset = _dataset_name(json.loads(text))
        problems = [_describe(problem, dataset) for problem in error.errors(include_url=False)]
        raise ConfigError("\n".join(["invalid config:", *dict.fromkeys(problems)])) from None


def resolved(config: T) -> T:
    """A config or section with the absolute path of each folder that it names.

    So that every process means the same. `~` is the home directory. URLs, and what is empty,
    stay as they are.
    """

    def absolute(value: str) -> str:
        if not value or "://" in value:
            return value
        return os.path.abspath(os.path.expanduser(value))

    def within(section: Any) -> Any:
        changed = {}
        for field in dataclasses.fields(section):
            value = getattr(section, field.name)
            if field.metadata.get("folder"):
                changed[field.name] = absolute(value)
            elif dataclasses.is_dataclass(value):
                changed[field.name] = within(value)
        return dataclasses.replace(section, **changed)

    resolved: T = within(config)
    return resolved


def folders(config: Any) -> list[str]:
    """Names of the fields of a dataset that name folders."""
    return [field.name for field in dataclasses.fields(config) if field.metadata.get("folder")]


def differences(
    old: ExperimentConfig, new: ExperimentConfig, *, results_only: bool = False
) -> list[str]:
    """The fields in which two configs differ, as `key: old value -> new value`.

    Args:
      old: one of them.
      new: the other.
      results_only: leave out the fields on which no result depends, those marked `MAY_CHANGE`.
    """
    before, after = _flatten(to_json(old)), _flatten(to_json(new))
    left_out = {*_marked(old), *_marked(new)} if results_only else set()
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before | after)
        if before.get(key) != after.get(key)
        and not any(key == other or key.startswith(f"{other}.") for other in left_out)
    ]


def _marked(section: Any, prefix: str = "") -> Iterator[str]:
    """The keys of fields and sections that are marked `MAY_CHANGE`."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if field.metadata.get("may_change"):
            yield prefix + field.name
        elif dataclasses.is_dataclass(value):
            yield from _marked(value, f"{prefix}{field.name}.")


def unknown_overrides(config: ml_collections.ConfigDict, flags: Sequence[str]) -> list[str]:
    """Names the keys that a config lacks among flags of the form `--config.KEY.KEY=VALUE`."""
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
    """Name of the dataset of a config that has a fault somewhere."""
    data = values.get("data", {}) if isinstance(values, dict) else {}
    return data.get("name", registry.DEFAULT) if isinstance(data, dict) else None


def _describe(problem: Mapping[str, Any], dataset: object) -> str:
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
    # pydantic appends the branch of a union to the location: not a key that anyone wrote.
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
