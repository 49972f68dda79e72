"""Command lines of `sft_jax.commands`: wrong flags and expected errors end in one clear line."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import pathlib
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import absl.logging
import jax
import ml_collections
from absl import app, flags
from ml_collections import config_flags

from sft_jax import config_io
from sft_jax.parallel import multihost, preemption
from sft_jax.plugins import suggest

_logger = logging.getLogger(__name__)

CACHED_FROM_SECONDS = 0.5
"""Shortest compilation worth caching; loading a program takes about as long."""

_EXPECTED = (ValueError, OSError, ModuleNotFoundError, ArithmeticError)


def run(
    main: Callable[..., None],
    *,
    positional: bool = False,
    compilation_cache: bool = False,
    distributed: bool = False,
) -> None:
    """Parses the flags and runs `main`.

    A ValueError, OSError, missing module or non-finite number counts as an error that the user can
    fix: its message is printed and the exit status is 1. Other errors are bugs, shown with their
    traceback. `--debug` shows the traceback of every error. Ctrl-C ends in one line too.
    Training that was asked to end prints how to resume, with the exit status of SIGTERM.

    Args:
      main: Function to run.
      positional: Whether `main` takes the list of arguments that are not flags; by default there
        may be none.
      compilation_cache: Whether to add `--compilation_cache`.
      distributed: Whether to add the flags of several processes.
    """
    _help_as_a_script(main)
    flags.DEFINE_bool("debug", False, "Show the traceback of every error.")
    if compilation_cache:
        text = "Folder for compiled programs, which later starts load; empty for none. Default:"
        text += " JAX_COMPILATION_CACHE_DIR if set, else sft_jax in XDG_CACHE_HOME or ~/.cache."
        flags.DEFINE_string("compilation_cache", None, text)
    if distributed:
        define_distributed(flags.FLAGS)

    def guarded(argv: Sequence[str]) -> None:
        if argv[1:] and not positional:
            sys.exit(f"error: unexpected arguments {argv[1:]}; flags are written --NAME=VALUE")
        # At INFO, Orbax logs each file that it writes.
        absl.logging.set_verbosity(absl.logging.WARNING)
        logging.getLogger("sft_jax").setLevel(logging.INFO)
        if compilation_cache:
            _keep_compiled(_cache_folder(flags.FLAGS))
        job = None
        try:
            if distributed:
                job = multihost.initialize(_options(flags.FLAGS))
            main(*([argv[1:]] if positional else []))
        except preemption.PreemptedError as stopped:
            print(stopped)
            raise
        except KeyboardInterrupt:
            if flags.FLAGS.debug:
                raise
            print("interrupted; training goes on from its last checkpoint with the same command")
            sys.exit(130)  # As a shell reports SIGINT.
        except Exception as error:
            expected = isinstance(error, _EXPECTED) and not flags.FLAGS.debug
            if job:
                process = f"process {job.process_id} of {job.num_processes}"
                where = "(--debug shows where)" if expected else traceback.format_exc()
                if isinstance(error, jax.errors.JaxRuntimeError):
                    where += "If another process has ended, its output says why. Start all again."
                multihost.leave(f"error in {process}: {error}\n{where}")
            if not expected:
                raise
            sys.exit(f"error: {error}\n(--debug shows where)")

    try:
        app.run(guarded, flags_parser=_parse)
    except BrokenPipeError:
        # The reader of the output has ended, such as `head`; Python's last flush must not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _help_as_a_script(main: Callable[[], None]) -> None:
    """Makes `--help` print the docstring and flags of the module of `main`, for any script.

    absl prints those of `__main__`, which for an installed command is a file of the installer.
    """
    module = sys.modules[main.__module__]
    sys.modules["__main__"].__doc__ = module.__doc__
    own = flags.FLAGS.get_flags_for_module(module)
    for flag in [*own, *([flags.FLAGS["config"]] if "config" in flags.FLAGS else [])]:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def define_config(values: flags.FlagValues, text: str) -> None:
    """Adds the flag `--config`, a file or the name of a shipped config, and those of its fields.

    Args:
      values: Flags to add to.
      text: Help of the flag.
    """
    config_flags.DEFINE_config_file("config", None, text, flag_values=values)
    values["config"].parser = _ConfigFileParser(values["config"].parser)


def define_distributed(values: flags.FlagValues) -> None:
    """Adds the flags of one of several processes."""
    integer = functools.partial(flags.DEFINE_integer, flag_values=values)
    text = "HOST:PORT of process 0, in each of several processes; default as the environment says."
    flags.DEFINE_string("coordinator", None, text, flag_values=values)
    integer("num_processes", None, "Number of processes.", lower_bound=1)
    integer("process_id", None, "Number of this process, from 0.", lower_bound=0)
    text = "Seconds to wait for all processes."
    integer("init_timeout", multihost.INIT_TIMEOUT, text, lower_bound=1)
    text = "Seconds without a sign of a process, after which the others end."
    integer("heartbeat_timeout", multihost.HEARTBEAT_TIMEOUT, text, lower_bound=1)


def _options(values: flags.FlagValues) -> multihost.Options:
    names = [field.name for field in dataclasses.fields(multihost.Options)]
    options: dict[str, Any] = {name: values[name].value for name in names}
    return multihost.Options(**options)


def _cache_folder(values: flags.FlagValues) -> str | None:
    """Returns the folder from the flag, otherwise from the config; None without both."""
    if values.compilation_cache is not None or "config" not in values:
        return values.compilation_cache
    return values.config.system.compilation_cache or None


def _keep_compiled(folder: str | None) -> None:
    """Makes JAX cache compiled programs in a folder, unless it can't be written to."""
    if folder is None and "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return  # JAX has already read the variable.
    try:
        path = _writable(_default_cache() if folder is None else folder) if folder != "" else None
    except (OSError, RuntimeError) as error:
        _logger.warning("compiled programs are not kept for later starts: %s", error)
        path = None
    jax.config.update("jax_compilation_cache_dir", path)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHED_FROM_SECONDS)


def _default_cache() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return str(pathlib.Path(base) / "sft_jax")


def _writable(folder: str) -> str:
    """Makes a folder within a cache, separate for each number of cores that a process may use.

    XLA divides the work of a CPU by the number of cores. JAX's key of a program contains the
    CPU's instruction set, but not the number of cores.
    """
    allowed = getattr(os, "sched_getaffinity", None)  # Only Linux has this function.
    cores = len(allowed(0)) if allowed else os.cpu_count()
    if "://" in folder:  # JAX writes to buckets itself.
        return f"{folder.rstrip('/')}/cores_{cores}"
    path = pathlib.Path(folder).expanduser() / f"cores_{cores}"
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        return str(path)


def config_file(name: str) -> str:
    """Finds a config file: one at this path, or else a shipped one.

    Args:
      name: Path of a file, or name of a shipped config such as `watch` or `configs/watch.py`.

    Raises:
      ValueError: If there is no such file or config.
    """
    if pathlib.Path(name).is_file():
        return name
    # The configs are next to this package, in the repository and when installed.
    folder = pathlib.Path(__file__).parents[1] / "configs"
    shipped = {
        path.stem: path for path in folder.glob("*.py") if "def get_config(" in path.read_text()
    }
    stem = name.removeprefix("configs/").removesuffix(".py")
    if stem not in shipped:
        raise ValueError(
            f"no config file {name!r}, nor a shipped config; {suggest(stem, [*shipped])}"
        )
    return str(shipped[stem])


class _ConfigFileParser(flags.ArgumentParser):
    """Reads the file of `--config`, keeps the config, and shortens the errors."""

    def __init__(self, parser: flags.ArgumentParser) -> None:
        self._parser = parser
        self.config: ml_collections.ConfigDict | None = None

    def parse(self, argument: str) -> ml_collections.ConfigDict:
        file, colon, arg = argument.partition(":")
        try:
            self.config = self._parser.parse(f"{config_file(file)}{colon}{arg}")
        except ValueError as error:
            # The message of ml_collections is a traceback; its context is the error of get_config.
            raise (error.__context__ or error) from None
        config_io.split_budgets(self.config, sys.argv)
        return self.config

    def flag_type(self) -> str:
        return self._parser.flag_type()


def _parse(argv: Sequence[str]) -> list[str]:
    parser = flags.FLAGS["config"].parser if "config" in flags.FLAGS else None
    try:
        return flags.FLAGS(list(argv))
    except flags.Error as error:
        sys.exit(f"error: {error}\n(--help lists the flags)")
    except (AttributeError, KeyError):
        # ml_collections raises these errors for an override of a key that the config lacks.
        config = getattr(parser, "config", None)
        overrides = [flag for flag in argv if flag.startswith(("-config.", "--config."))]
        unknown = config_io.unknown_overrides(config, overrides) if config else []
        if not unknown:
            raise
        sys.exit("\n".join(f"error: {problem}" for problem in unknown))
