"""Version of the package and identity of the running code; read without importing JAX."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Mapping

__version__ = "0.1.0"

_PACKAGE = pathlib.Path(__file__).parent
_SOURCES = (".py", ".c", ".css", ".html", ".js")
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@functools.cache
def code_digest() -> str:
    """Computes the sha256 of the paths and contents of the source files, as `sha256:...`.

    The same code has the same digest, in a repository or installed, with or without git.
    """
    paths = [path for path in _PACKAGE.rglob("*") if path.suffix in _SOURCES]
    return digest({path.relative_to(_PACKAGE).as_posix(): path.read_bytes() for path in paths})


def digest(files: Mapping[str, bytes]) -> str:
    """Computes the value of `code_digest` from the contents of the files of the package.

    Args:
      files: Content of each file by its path in the package. Those that are not source count not.
    """
    total = hashlib.sha256()
    for name, content in sorted(files.items()):
        if name.endswith(_SOURCES):
            # The length marks where one file ends and the next begins.
            total.update(f"{name}\0{len(content)}\0".encode() + content)
    return f"sha256:{total.hexdigest()}"


def code() -> dict[str, str | bool | None]:
    """Returns the identity of the running code, read once per process.

    Returns:
      JSON values:

      - `commit`, the git commit; None if the package is not part of a git checkout;
      - `dirty`, True if tracked source files of the checkout differ from the commit, or the
        package has others; None without a commit;
      - `digest`, the value of `code_digest()`.
    """
    commit, dirty = _checkout()
    return {"commit": commit, "dirty": dirty, "digest": code_digest()}


def environment() -> dict[str, dict[str, str | bool | None]]:
    """Returns the identity of the running code, and versions of Python and the libraries.

    Returns:
      JSON values: `code`, the value of `code()`; and `versions` by name, None for a missing
      library.
    """
    versions: dict[str, str | bool | None] = {
        "sft_jax": __version__,
        "python": platform.python_version(),
    }
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {"code": code(), "versions": versions}


@functools.cache
def _checkout() -> tuple[str | None, bool | None]:
    """Returns the git commit, and True if source files differ from it."""
    # A package that is installed below another repository is not tracked by it.
    if _git("ls-files", "--error-unmatch", "--", pathlib.Path(__file__).name) is None:
        return None, None
    # Outside the package, untracked files are results, such as an exported C file.
    everywhere = [f":(top)*{suffix}" for suffix in _SOURCES]
    tracked = _git("status", "--porcelain", "--untracked-files=no", "--", *everywhere)
    own = _git("status", "--porcelain", "--", *(f"*{suffix}" for suffix in _SOURCES))
    changed = None if tracked is None or own is None else bool(tracked or own)
    return _git("rev-parse", "HEAD"), changed


def _git(*arguments: str) -> str | None:
    """Returns the output of a git command; None if it fails or git is not installed."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=_PACKAGE,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
