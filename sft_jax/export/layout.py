"""Layout of the Hugging Face hub: names and metadata of a folder's files, without its packages.

| file | contents |
| --- | --- |
| `model.safetensors` | parameters, named by their path with dots |
| `config.json` | metadata of the export, and the fields of the model's config |
| `README.md` | model card |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sft_jax.export import written
from sft_jax.runs.storage import AnyPath

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def is_folder(path: AnyPath) -> bool:
    """Tells whether a path is such a folder, also without all of its files."""
    if (path / WEIGHTS).is_file():
        return True
    try:
        values = json.loads((path / CONFIG).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "format_version" in values


def read_config(folder: AnyPath, name: str | None = None) -> Mapping[str, Any]:
    """Metadata of a folder.

    Args:
      folder: Folder, local or in a bucket.
      name: Name of the folder in errors; by default its path.

    Raises:
      ExportedFileError: If the folder is of another format or version.
    """
    try:
        text = (folder / CONFIG).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = "it has no config.json" if isinstance(error, FileNotFoundError) else str(error)
        raise written.ExportedFileError(
            f"{name or folder} is not a folder of --format=safetensors: {reason}"
        ) from None
    return written.read_metadata(text, "safetensors", name or folder)
