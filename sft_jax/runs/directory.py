"""The files of a run directory beside its checkpoints."""

from __future__ import annotations

import dataclasses
import datetime
import json
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax

from sft_jax import config_io, version
from sft_jax.config import ExperimentConfig
from sft_jax.runs import storage
from sft_jax.runs.storage import AnyPath

CARD = "data_card.json"
"""The file with what was found in the data."""


class RunDirectoryError(ValueError):
    """A run directory that can't be used for what was asked."""


def prepare(workdir: AnyPath, config: ExperimentConfig) -> None:
    """Makes a run directory, or checks that it was made by the same config.

    Fields on which no result depends, those marked `sft_jax.data_config.MAY_CHANGE`, may have
    other values. Writes `config.json`, and adds the command, code, versions, devices and what has
    changed since the last start to `starts.jsonl`. A run that ended before its first checkpoint
    has nothing to lose, so all of its config may be changed.

    Raises:
      RunDirectoryError: if it can't be written to, or is another config's.
    """
    try:
        storage.probe(workdir)
    except OSError as error:
        raise RunDirectoryError(
            f"can't write to workdir {workdir}: {error.strerror or error}"
        ) from None
    changed: list[str] = []
    if _has_checkpoints(workdir):
        before = read_config(workdir)
        if refused := differences(before, config):
            raise RunDirectoryError(
                f"workdir {workdir} was made by another config. Give another --workdir, or"
                " undo these changes:\n  " + "\n  ".join(refused)
            )
        changed = config_io.differences(before, config)
    write_json(workdir / "config.json", config_io.to_json(config))
    if jax.process_index() == 0:
        start = {**_start(config), "changed": changed}
        storage.append(workdir / "starts.jsonl", json.dumps(start) + "\n")


def differences(made_by: ExperimentConfig, config: ExperimentConfig) -> list[str]:
    """What differs between configs, but for what a run may change (`MAY_CHANGE`)."""
    return config_io.differences(made_by, config, results_only=True)


def keep_dataset(
    workdir: AnyPath,
    info: Mapping[str, Any],
    same_statistics: Callable[[Any, Any], bool] = operator.eq,
) -> None:
    """Writes `dataset.json`, or checks that the run was trained on the same data until now.

    Args:
      workdir: the run directory.
      info: what is to be known of the dataset, as JSON values.
      same_statistics: whether those that were saved and those of `info` are the same.

    Raises:
      RunDirectoryError: naming what differs.
    """
    path = workdir / "dataset.json"
    if _has_checkpoints(workdir) and path.exists():
        saved = _read_json(path)
        same = {
            "statistics": same_statistics,
            "metrics": lambda *_: True,
            "fingerprints": lambda *_: True,
        }
        changed = [
            key for key in saved if not same.get(key, operator.eq)(saved[key], info.get(key))
        ]
        if changed:
            raise RunDirectoryError(
                f"workdir {workdir} was trained on other data: {', '.join(changed)} differ from"
                f" {path}. Give another workdir"
            )
    write_json(path, info)


def fingerprints(workdir: AnyPath) -> dict[str, str] | None:
    """Split to the fingerprint of the examples that a run was started with.

    None for a run of data that its config names, and of versions that kept none.
    """
    path = workdir / "dataset.json"
    return _read_json(path).get("fingerprints") if path.exists() else None


def read_config(workdir: AnyPath) -> ExperimentConfig:
    """The config that a run was made by.

    Raises:
      RunDirectoryError: if `workdir` is not a run directory.
    """
    path = workdir / "config.json"
    try:
        return config_io.from_mapping(_read_json(path))
    except FileNotFoundError:
        raise RunDirectoryError(
            f"{workdir} is not a run directory: it has no config.json"
        ) from None


def _read_json(path: AnyPath) -> Any:
    """Raises RunDirectoryError for a file that is not whole."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from None


def _has_checkpoints(workdir: AnyPath) -> bool:
    return any(path.name.isdecimal() for path in workdir.glob("checkpoints/*/*"))


def write_json(path: AnyPath, values: Any) -> None:
    """Writes a JSON file that is either whole or not there, whatever happens meanwhile.

    Of several processes the first writes, and the others do nothing.
    """
    if jax.process_index():
        return
    storage.write_whole(path, json.dumps(values, indent=2) + "\n")


def _start(config: ExperimentConfig) -> dict[str, Any]:
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        **version.environment(),
        "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
        "mesh": dataclasses.asdict(config.mesh),
    }
