"""Files of a run directory, in a local folder or a bucket (`gs://bucket/run`).

An object in a bucket is written completely or not at all. It can't be appended to, and renaming
it means copying it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any, TypeAlias

import fsspec
import jax
from etils import epath

AnyPath: TypeAlias = pathlib.Path | epath.Path


def as_path(path: str | os.PathLike[str]) -> AnyPath:
    """Converts a user's text to a path, local or in a bucket, without accessing it.

    `~` is the home directory.

    Raises:
      ValueError: For a URL of another form than `gs://BUCKET/...`.
      ModuleNotFoundError: For a bucket, if the package for buckets is not installed.
    """
    text = os.fspath(path)
    scheme, separator, rest = text.partition("://")
    if not separator:
        # pathlib takes a URL for a local path and drops a slash.
        if text.startswith("gs:/"):
            raise ValueError(f"{text}: expected gs://BUCKET/FOLDER; pathlib.Path can't hold it")
        return epath.Path(os.path.expanduser(text))
    bucket, _, folder = rest.partition("/")
    if scheme != "gs" or not bucket or not folder:
        raise ValueError(f"{text}: expected a local path or gs://BUCKET/FOLDER")
    if importlib.util.find_spec("gcsfs") is None:
        raise ModuleNotFoundError(
            f"{text}: to reach a bucket, install the extra: pip install 'sft_jax[gcs]'"
        )
    # TensorStore and other processes write files too, which a cached listing of gcsfs would lack.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return epath.Path(text)


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Returns True for a path in a bucket."""
    return os.fspath(path).startswith("gs://")


def probe(folder: AnyPath) -> None:
    """Makes a folder unless it exists, and checks that it can be written to.

    Raises:
      OSError: If the folder can't be written to.
    """
    if not in_bucket(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    path = folder / f".probe_{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        path.unlink()
    except Exception as error:  # A bucket's client raises errors of many kinds.
        raise OSError(f"{type(error).__name__}: {error}") from error


def prepare_file(path: AnyPath) -> None:
    """Makes the folder of a file, and checks that the file can be written later.

    Call it before the work whose result goes into the file. The content of the file is not
    changed.

    Raises:
      OSError: If the file can't be written; the message gives the file and the reason.
    """
    try:
        if not in_bucket(path) and path.is_dir():
            raise IsADirectoryError("it is a folder")
        probe(path.parent)
    except OSError as error:
        raise OSError(f"can't write to {path}: {error.strerror or error}") from None


def write_whole(path: AnyPath, content: str | bytes) -> None:
    """Writes a file atomically: if the process is killed, the file is complete or unchanged."""
    data = content.encode() if isinstance(content, str) else content
    if in_bucket(path):
        path.write_bytes(data)
        return
    # The name is unique, as two processes may write the same file.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: AnyPath, values: Any) -> None:
    """Writes a JSON file atomically, like `write_whole`.

    With several processes the first writes, and the others do nothing.
    """
    if jax.process_index() == 0:
        write_whole(path, json.dumps(values, indent=2) + "\n")


def create(path: AnyPath, content: str) -> bool:
    """Writes an object to a bucket, unless an object of that name exists.

    Returns:
      True if the object was written. Of several concurrent processes, only one gets True.
    """
    try:
        # The storage service itself decides (ifGenerationMatch=0).
        fsspec.filesystem("gcs").pipe_file(os.fspath(path), content.encode(), mode="create")
    except FileExistsError:
        return False
    except Exception as error:  # A bucket's client raises errors of many kinds.
        raise OSError(f"{type(error).__name__}: {error}") from error
    return True


def append(path: AnyPath, text: str) -> None:
    """Appends to a text file, made unless it exists; in a bucket the file is rewritten."""
    if in_bucket(path):
        before = path.read_text() if path.exists() else ""
        write_whole(path, before + text)
        return
    with path.open("a") as file:
        file.write(text)


def copy_files(folder: pathlib.Path, target: AnyPath) -> None:
    """Copies all files of a local folder to another folder, replacing files there."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(folder).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_whole(copy, path.read_bytes())


class Staged:
    """Local folder for files that belong in a target, which may be in a bucket.

    A local target is itself the folder. Otherwise the folder is temporary, and `upload` copies
    its files to the target.

    Attributes:
      folder: Folder to write to.
    """

    def __init__(self, target: AnyPath) -> None:
        """Makes the temporary folder, for a target in a bucket."""
        self._target = target
        self._temporary = tempfile.TemporaryDirectory() if in_bucket(target) else None
        self.folder = pathlib.Path(self._temporary.name if self._temporary else target)

    def upload(self) -> None:
        """Copies all files to a target in a bucket."""
        if self._temporary:
            copy_files(self.folder, self._target)

    def close(self) -> None:
        """Uploads the files, and removes the temporary folder."""
        self.upload()
        if self._temporary:
            self._temporary.cleanup()


def files(folder: epath.Path) -> Iterator[tuple[str, epath.Path]]:
    """Yields the name, relative to the folder, and the path of each file in it."""
    # `walk` is not used: in a bucket, epath yields paths without gs://.
    for path in folder.iterdir():
        if path.is_dir():
            yield from ((f"{path.name}/{name}", file) for name, file in files(path))
        else:
            yield path.name, path


def move(folder: epath.Path, target: epath.Path) -> None:
    """Moves a folder to a new path; in a bucket all files are copied before any is removed."""
    if in_bucket(folder):
        for name, path in list(files(folder)):
            path.copy(target / name)
        folder.rmtree()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)
