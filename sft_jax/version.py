"""The version of the package, and which code runs; read without importing JAX."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess

__version__ = "0.1.0"

_PACKAGE = pathlib.Path(__file__).parent
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@functools.cache
def code_digest() -> str:
    """Sha256 over the paths and contents of the package's `.py` files, as `sha256:...`.

    It is the same for the same code, in a repository or installed, under git or not.
    """
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py"), key=lambda path: path.as_posix()):
        content = path.read_bytes()
        name = path.relative_to(_PACKAGE).as_posix()
        # The length keeps where one file ends and the next begins.
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return f"sha256:{digest.hexdigest()}"


def code() -> dict[str, str | bool | None]:
    """Which code runs, as JSON values; what is first found holds for the process.

    Returns:
      - `commit`: the git commit; None where the package is not part of a git checkout;
      - `dirty`: whether Python files of the checkout differ from that commit; None without one;
      - `digest`: `code_digest()`.
    """
    commit, dirty = _checkout()
    return {"commit": commit, "dirty": dirty, "digest": code_digest()}


def environment() -> dict[str, dict[str, str | bool | None]]:
    """The code that runs and the versions of what it runs on, as JSON values.

    Returns:
      `code`: see there; `versions` by name, those of the libraries None where they are missing.
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
    """The git commit, and whether Python files differ from it."""
    # Tracked: a package that is installed below some other repository is not of its commit.
    if _git("ls-files", "--error-unmatch", "--", pathlib.Path(__file__).name) is None:
        return None, None
    changed = _git("status", "--porcelain", "--", ":(top)*.py")
    return _git("rev-parse", "HEAD"), None if changed is None else bool(changed)


def _git(*arguments: str) -> str | None:
    """What git prints; None where it fails or there is none."""
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
