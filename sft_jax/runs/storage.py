"""Files of a run directory, which is a local folder or one in a bucket (`gs://bucket/run`).

An object in a bucket is written whole or not at all; there is no adding to it, and renaming it is
copying it.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterator
from typing import TypeAlias

import fsspec
from etils import epath

AnyPath: TypeAlias = pathlib.Path | epath.Path


def as_path(given: str | os.PathLike[str]) -> AnyPath:
    """The path that a user means; nothing is looked up, local or not.

    Raises:
      ValueError: for a URL of another kind than `gs://BUCKET/...`.
      ModuleNotFoundError: for such a one, if what reaches buckets is not installed.
    """
    text = os.fspath(given)
    scheme, separator, rest = text.partition("://")
    if not separator:
        # As pathlib writes a URL, which it takes for a local path.
        if text.startswith("gs:/"):
            raise ValueError(f"{text}: expected gs://BUCKET/FOLDER; pathlib.Path can't hold it")
        return epath.Path(text)
    bucket, _, folder = rest.partition("/")
    if scheme != "gs" or not bucket or not folder:
        raise ValueError(f"{text}: expected a local path or gs://BUCKET/FOLDER")
    if importlib.util.find_spec("gcsfs") is None:
        raise ModuleNotFoundError(
            f"{text}: to reach a bucket, install the extra: pip install 'sft_jax[gcs]'"
        )
    # Arrays are written by TensorStore, other files by other processes: of those, lists of files
    # that gcsfs had before know nothing.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return epath.Path(text)


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path is in a bucket."""
    return os.fspath(path).startswith("gs://")


def probe(folder: AnyPath) -> None:
    """Makes a folder, if it is not there, and sees whether it can be written to.

    Raises:
      OSError: if not.
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
    except Exception as error:  # What a bucket's client raises is of many kinds.
        raise OSError(f"{type(error).__name__}: {error}") from error


def prepare_file(path: AnyPath) -> None:
    """Makes the folder of a file to be written later, and sees whether it can be.

    To be called before the work whose result goes there. What the file holds is left alone.

    Raises:
      OSError: naming the file and what is in the way.
    """
    try:
        if not in_bucket(path) and path.is_dir():
            raise IsADirectoryError("it is a folder")
        probe(path.parent)
    except OSError as error:
        raise OSError(f"can't write to {path}: {error.strerror or error}") from None


def write_whole(path: AnyPath, content: str | bytes) -> None:
    """Writes a file that is either whole or as it was, whatever happens meanwhile."""
    data = content.encode() if isinstance(content, str) else content
    if in_bucket(path):
        path.write_bytes(data)
        return
    # Of a name of its own, as two processes may write the same file.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def create(path: AnyPath, content: str) -> bool:
    """Writes an object of a bucket, unless there is one of that name.

    Returns:
      Whether it was written. Of several processes that try, it is for one of them.
    """
    try:
        # What Google's storage itself decides (ifGenerationMatch=0).
        fsspec.filesystem("gcs").pipe_file(os.fspath(path), content.encode(), mode="create")
    except FileExistsError:
        return False
    except Exception as error:  # What a bucket's client raises is of many kinds.
        raise OSError(f"{type(error).__name__}: {error}") from error
    return True


def append(path: AnyPath, text: str) -> None:
    """Adds to a text file, which is made if it is not there; one in a bucket is written anew."""
    if in_bucket(path):
        before = path.read_text() if path.exists() else ""
        write_whole(path, before + text)
        return
    with path.open("a") as file:
        file.write(text)


def copy_files(folder: pathlib.Path, target: AnyPath) -> None:
    """Copies the files of a local folder, and of the folders in it, over those of another."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(folder).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_whole(copy, path.read_bytes())


class Staged:
    """A local folder whose files end up in another, which may be in a bucket.

    Where the other is local they are one; else it is temporary, and copied by `upload`.

    Attributes:
      folder: where to write.
    """

    def __init__(self, target: AnyPath) -> None:
        """Makes the temporary folder, if need be."""
        self._target = target
        self._temporary = tempfile.TemporaryDirectory() if in_bucket(target) else None
        self.folder = pathlib.Path(self._temporary.name if self._temporary else target)

    def upload(self) -> None:
        """Copies all files that have been written."""
        if self._temporary:
            copy_files(self.folder, self._target)

    def close(self) -> None:
        """Uploads, and removes what was temporary."""
        self.upload()
        if self._temporary:
            self._temporary.cleanup()


def files(folder: epath.Path) -> Iterator[tuple[str, epath.Path]]:
    """Names, from the folder on, and paths of the files in it and in its folders."""
    # What `walk` of epath yields in a bucket lacks its gs://.
    for path in folder.iterdir():
        if path.is_dir():
            yield from ((f"{path.name}/{name}", file) for name, file in files(path))
        else:
            yield path.name, path


def move(folder: epath.Path, target: epath.Path) -> None:
    """Moves a folder to a place where none is; in a bucket all is copied before it is removed."""
    if in_bucket(folder):
        for name, path in list(files(folder)):
            path.copy(target / name)
        folder.rmtree()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)
