"""A list of the files of a folder with their sha256, to detect later changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection

from etils import epath

from sft_jax.runs import storage

MANIFEST = "sha256.json"
"""Name of the list, a file in the folder itself."""


def sign(folder: epath.Path, leave_out: Collection[str] = ()) -> None:
    """Writes the list of all files of a folder, and replaces any earlier list.

    Args:
      folder: Folder, with any number of subfolders.
      leave_out: Paths within `folder` of files that may still change.
    """
    listed = {
        name: {"bytes": path.stat().length, "sha256": _digest(path)}
        for name, path in sorted(storage.files(folder))
        if name not in {*leave_out, MANIFEST}
    }
    storage.write_whole(folder / MANIFEST, json.dumps(listed, indent=1))


def is_signed(folder: epath.Path) -> bool:
    """Returns True if a folder has a list, valid or not."""
    return (folder / MANIFEST).exists()


def problems(folder: epath.Path) -> list[str]:
    """Finds the problems of the files of a signed folder.

    Every file is read to its end. A file that is not in the list is not a problem.

    Returns:
      A line for each file that has changed, with its name; a single line for a list that is
      missing or damaged.
    """
    try:
        listed = json.loads((folder / MANIFEST).read_bytes())
        entries = [(name, entry["bytes"], entry["sha256"]) for name, entry in listed.items()]
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        return [f"{MANIFEST} can't be read: {error!r}"]
    lines = ((name, _problem(folder / name, *entry)) for name, *entry in entries)
    return [f"{name} {problem}" for name, problem in lines if problem]


def _problem(path: epath.Path, size: int, digest: str) -> str | None:
    try:
        if (length := path.stat().length) != size:
            return f"has {length} bytes, had {size}"
        return None if _digest(path) == digest else "has other bytes than were written"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"can't be read: {error}"


def _digest(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
