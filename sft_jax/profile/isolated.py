"""Calls of functions in a separate process, with JSON values as argument and result.

Peak memory, compiled programs, environment variables and cores belong to a process as a whole, so
a measurement of them needs a fresh process. The child runs this file by its path: it imports only
those parts of the package that the module of the function imports.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_ROOT = pathlib.Path(__file__).parents[2]


def run_isolated(
    function: str, request: Any, *, environment: Mapping[str, str] | None = None
) -> Any:
    """Calls a function once in a new process.

    Args:
      function: Import path of the function, `package.module:name`.
      request: Argument of the function, a JSON value.
      environment: Environment variables of the process, in addition to those of this one.

    Returns:
      The JSON value that the function returns.

    Raises:
      ChildProcessError: If the process ends without an answer. Its stderr says why.
    """
    with IsolatedFunction(function, environment=environment) as call:
        return call(request)


class IsolatedFunction:
    """Function in a separate process, which answers one call after another.

    A class may take the place of the function. The process makes one instance and calls it for
    each request, so that it can reuse compiled programs.

    Attributes:
      pid: Process identifier.
    """

    def __init__(
        self,
        function: str,
        *,
        program: Sequence[str] = (sys.executable, "-P", str(pathlib.Path(__file__).absolute())),
        environment: Mapping[str, str] | None = None,
        root: pathlib.Path = _ROOT,
    ) -> None:
        """Starts the process.

        Args:
          function: Import path `package.module:name`, or `FILE.py:NAME` for a file by its path.
          program: Command that answers requests, without its last argument, the function. By
            default this Python; -P keeps the folder of this file out of the import path.
          environment: Environment variables of the process, in addition to those of this one.
          root: First folder to import modules from, and working directory of the process.
        """
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
        self._function = function
        self._process = subprocess.Popen(
            [*program, function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        )
        self.pid = self._process.pid

    def __call__(self, request: Any) -> Any:
        """Calls the function.

        Args:
          request: Argument of the function, a JSON value.

        Returns:
          The JSON value that the function returns.

        Raises:
          ChildProcessError: If the process ends without an answer. Its stderr says why.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # The process has ended; the missing answer is reported below.
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            memory = status == -signal.SIGKILL
            raise ChildProcessError(
                f"{self._function} ended with status {status}"
                + (", as a process does that takes too much memory" if memory else "")
            )
        return json.loads(line)

    def __enter__(self) -> IsolatedFunction:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            self._process.kill()
        # The process ends when its input is closed.
        self._process.communicate()


def _load(path: str) -> Callable[[Any], Any]:
    """Loads the function, or makes an instance of the class, at an import path."""
    place, _, name = path.rpartition(":")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(pathlib.Path(place).stem, place)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    function = getattr(module, name)
    return function() if isinstance(function, type) else function


def _serve(path: str) -> None:
    """Answers requests, one per line, until the input ends."""
    # Other output must not mix with the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    function = _load(path)
    for line in sys.stdin:
        print(json.dumps(function(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
