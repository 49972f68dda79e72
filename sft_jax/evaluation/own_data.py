"""Data of a run: comparison with the training data, new folders, and errors that name them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from sft_jax import config_io
from sft_jax.data.sets.base import DatasetEntry
from sft_jax.evaluation.scores import NotFiniteError
from sft_jax.runs.directory import RunDirectory, RunDirectoryError


def fingerprints(
    run: RunDirectory, description: Mapping[str, Any], equal: bool
) -> Mapping[str, str] | None:
    """Returns the fingerprint of each split of the data that a run was trained on.

    None means that the evaluated dataset counts as that data.

    Args:
      run: Run directory.
      description: Description of a checkpoint of the run.
      equal: Whether the `DatasetInfo` of both datasets are equal, which decides for a run without
        saved fingerprints.
    """
    if not description.get("own_dataset"):
        return {}
    saved = run.fingerprints()
    return None if saved is None and equal else saved or {}


def with_folders(data: DatasetEntry, folders: Mapping[str, str]) -> DatasetEntry:
    """Returns a config of data with some of its folders replaced.

    Args:
      data: Config of the data.
      folders: New folder by field of the config.

    Raises:
      ValueError: For a field that is not a folder of this data.
    """
    allowed = config_io.folders(data)
    if unknown := sorted(set(folders) - set(allowed)):
        raise ValueError(
            f"data_folders: {data.name} has no {', '.join(unknown)}; allowed are"
            f" {', '.join(allowed)}"
        )
    changed: Any = dict(folders)
    return config_io.resolved(dataclasses.replace(data, **changed))


@contextlib.contextmanager
def naming_folders(run: RunDirectory, data: DatasetEntry) -> Iterator[None]:
    """Context that adds the folders of the data, and the flags to change them, to errors."""
    try:
        yield
    except (OSError, ValueError) as error:
        fields = config_io.folders(data)
        now = ", ".join(f"{field}={getattr(data, field) or 'its default'}" for field in fields)
        flags = " or ".join(f"--{field}=FOLDER" for field in fields)
        raise RunDirectoryError(
            f"the data of {run} can't be opened, with {now}: {error}\nIf the data has moved,"
            f" name its folder: {flags} of eval.py, or data_folders of evaluate_run. To evaluate"
            " on other data, use evaluate_run(..., dataset=...) in Python"
        ) from error


@contextlib.contextmanager
def naming_checkpoint(run: RunDirectory, which: str, step: int) -> Iterator[None]:
    """Context that adds the checkpoint to errors about outputs of the model."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(f"{run}, {which} checkpoint, step {step}: {error}") from None
