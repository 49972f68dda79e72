"""Repositories of the Hugging Face hub with the files of `sft_jax.export.layout`."""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax

from sft_jax import plugins, version
from sft_jax.export import layout
from sft_jax.export.written import ExportedFileError
from sft_jax.runs.directory import RunDirectoryError

_ID = re.compile(r"([a-z0-9][\w.-]*/[a-z0-9][\w.-]*)(?:@(.+))?", re.ASCII | re.IGNORECASE)


def is_id(text: Any) -> bool:
    """Tells whether a text may name a repository, `OWNER/NAME` or `OWNER/NAME@REVISION`.

    The path of a folder can have this form, too.
    """
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def snapshot(name: str) -> pathlib.Path:
    """Downloads the files of an exported folder, into the cache that all programs of the hub share.

    The config comes first, so that nothing large is downloaded from repositories of other kinds.

    Args:
      name: Name of the repository, for which `is_id` is true. A revision is a branch, a tag or a
        commit; by default `main`.

    Returns:
      Local folder.

    Raises:
      RunDirectoryError: If there is no such repository or revision, it is private, or the hub
        can't be reached and has not been read before. Also without `huggingface_hub`.
      ExportedFileError: If the repository holds no exported folder, or one of another version.
    """
    repository, revision = _ID.fullmatch(name).groups()  # type: ignore[union-attr]
    no_folder = f"{name} is not a run directory: there is no such folder."
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise RunDirectoryError(
            f"{no_folder} To read it as a repository of the Hugging Face hub, install the extra:"
            " pip install 'sft_jax[hub]'"
        ) from error
    download = functools.partial(
        huggingface_hub.snapshot_download,
        repository,
        library_name="sft_jax",
        library_version=version.__version__,
    )
    try:
        folder = pathlib.Path(download(revision=revision, allow_patterns=[layout.CONFIG]))
        _check_objects(layout.read_config(folder, f"{name}, of the Hugging Face hub,"), name)
        # The cache names the folder after the commit, which a branch may leave meanwhile.
        download(revision=folder.name, allow_patterns=[layout.WEIGHTS, layout.CARD])
    except ExportedFileError:
        raise
    except Exception as error:  # The client of the hub raises errors of many kinds.
        raise RunDirectoryError(
            f"{no_folder} Nor can it be read as a repository of the Hugging Face hub:"
            f" {type(error).__name__}: {error}"
        ) from error
    return folder


def _check_objects(config: Mapping[str, Any], name: str) -> None:
    """Refuses import paths, since to load them runs what a stranger has named."""
    paths = [
        leaf
        for leaf in jax.tree.leaves(config.get("config"))
        if isinstance(leaf, str) and plugins.is_import_path(leaf)
    ]
    if paths:
        raise ExportedFileError(
            f"{name} needs objects of other packages, {', '.join(paths)}, which are not imported"
            " for a repository of the hub. If you trust it, download its files and load that"
            " folder"
        )
