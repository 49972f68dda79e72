"""What a run was made of: its own data, and where it is by now."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from sft_jax import config_io
from sft_jax.data_config import DataConfig
from sft_jax.evaluation.scores import NotFiniteError
from sft_jax.runs.directory import RunDirectory, RunDirectoryError


def fingerprints(
    run: RunDirectory, description: Mapping[str, Any], equal: bool
) -> Mapping[str, str] | None:
    """Split to the fingerprint of the data that a run was given; None if it is given again.

    Args:
      run: Run directory.
      description: of a checkpoint.
      equal: whether all else that is known of it and of what it is evaluated on is equal, which
        has to do for a run that kept none.
    """
    if not description.get("own_dataset"):
        return {}
    found = run.fingerprints()
    return None if found is None and equal else found or {}


def with_folders(data: DataConfig, folders: Mapping[str, str]) -> DataConfig:
    """A config of data with some of its folders elsewhere.

    Raises:
      ValueError: for a field that is none of its folders.
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
def telling_of_folders(run: RunDirectory, data: DataConfig) -> Iterator[None]:
    """Within, an error about data says how to tell where it is."""
    try:
        yield
    except (OSError, ValueError) as error:
        fields = config_io.folders(data)
        now = ", ".join(f"{field}={getattr(data, field) or 'its default'}" for field in fields)
        flags = " or ".join(f"--{field}=FOLDER" for field in fields)
        raise RunDirectoryError(
            f"the data of {run} can't be opened, with {now}: {error}\nIf it is elsewhere by"
            f" now, say where: {flags} of eval.py, or data_folders of evaluate_run. Any other is"
            " given in Python, as evaluate_run(..., dataset=...)"
        ) from error


@contextlib.contextmanager
def naming_checkpoint(run: RunDirectory, which: str, step: int) -> Iterator[None]:
    """Within, an error about outputs of the model says of which checkpoint they are."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(f"{run}, {which} checkpoint, step {step}: {error}") from None
