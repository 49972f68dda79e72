"""A disk that can be filled."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

_BYTES = 64 << 20


class Disk:
    """A small disk that is mounted at a folder while it is entered, or that folder itself."""

    def __init__(self, folder: pathlib.Path, *, mounted: bool) -> None:
        """Stores the folder, which is empty, and whether a disk is mounted there."""
        self._folder, self._mounted = folder, mounted

    def __enter__(self) -> Disk:
        if self._mounted:
            options = ["-t", "tmpfs", "-o", f"size={_BYTES}", "tmpfs"]
            subprocess.run(["mount", *options, str(self._folder)], check=True)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._mounted:
            subprocess.run(["umount", str(self._folder)], check=True)

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """Leaves no free space on the disk within the context."""
        ballast = self._folder / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            yield
        finally:
            ballast.unlink()
