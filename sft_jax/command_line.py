"""What train.py and eval.py share: wrong flags and expected errors end in one clear line."""

from __future__ import annotations

import dataclasses
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

from sft_jax import config_io
from sft_jax.parallel import multihost, preemption

_logger = logging.getLogger(__name__)

CACHED_FROM_SECONDS = 0.5
"""What takes less to compile costs about as much to load."""

_EXPECTED = (ValueError, OSError, ModuleNotFoundError, ArithmeticError)


def run(
    main: Callable[[], None], *, compilation_cache: bool = False, distributed: bool = False
) -> None:
    """Parses the flags and runs `main`.

    There are flags for JAX's compilation cache, and for a job of several processes, if so told.

    A ValueError, OSError, missing module or non-finite number is taken for the user's to
    mend: its message is printed and the exit status is 1. Anything else is a defect of
    ours and is shown with its traceback. So is everything with `--debug`. Training that
    was told to end says how to go on; the exit status is that of SIGTERM.
    """
    flags.DEFINE_bool("debug", False, "Show the traceback of every error.")
    if compilation_cache:
        what = "Folder for compiled programs, which later starts load; empty for none. Default:"
        what += " JAX_COMPILATION_CACHE_DIR if set, else sft_jax in XDG_CACHE_HOME or ~/.cache."
        flags.DEFINE_string("compilation_cache", None, what)
    if distributed:
        define_distributed(flags.FLAGS)

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            sys.exit(f"error: unexpected arguments {argv[1:]}; flags are written --NAME=VALUE")
        # Orbax says at INFO what it does with each file.
        absl.logging.set_verbosity(absl.logging.WARNING)
        logging.getLogger("sft_jax").setLevel(logging.INFO)
        if compilation_cache:
            _keep_compiled(_cache_folder(flags.FLAGS))
        job = None
        try:
            if distributed:
                job = multihost.initialize(_options(flags.FLAGS))
            main()
        except preemption.PreemptedError as stopped:
            print(stopped)
            raise
        except Exception as error:
            expected = isinstance(error, _EXPECTED) and not flags.FLAGS.debug
            if job:
                which = f"process {job.process_id} of {job.num_processes}"
                where = "(--debug shows where)" if expected else traceback.format_exc()
                if isinstance(error, jax.errors.JaxRuntimeError):
                    where += "If another process has ended, its output says why. Start all again."
                multihost.leave(f"error in {which}: {error}\n{where}")
            if not expected:
                raise
            sys.exit(f"error: {error}\n(--debug shows where)")

    app.run(guarded, flags_parser=_parse)


def define_distributed(values: flags.FlagValues) -> None:
    """Adds the flags by which one of several processes is told of the others."""
    of: dict[str, Any] = {"flag_values": values}
    what = "HOST:PORT of process 0, in each of several processes; default as the environment says."
    flags.DEFINE_string("coordinator", None, what, **of)
    flags.DEFINE_integer("num_processes", None, "How many there are.", lower_bound=1, **of)
    flags.DEFINE_integer("process_id", None, "Which one this is, from 0.", lower_bound=0, **of)
    what = "Seconds to wait for all processes."
    flags.DEFINE_integer("init_timeout", multihost.INIT_TIMEOUT, what, lower_bound=1, **of)
    what = "Seconds after which a process that is not heard of ends the others."
    flags.DEFINE_integer(
        "heartbeat_timeout", multihost.HEARTBEAT_TIMEOUT, what, lower_bound=1, **of
    )


def _options(values: flags.FlagValues) -> multihost.Options:
    names = [field.name for field in dataclasses.fields(multihost.Options)]
    given: dict[str, Any] = {name: values[name].value for name in names}
    return multihost.Options(**given)


def _cache_folder(values: flags.FlagValues) -> str | None:
    """What the flag says, or else the config; None if neither does."""
    if values.compilation_cache is not None or "config" not in values:
        return values.compilation_cache
    return values.config.system.compilation_cache or None


def _keep_compiled(folder: str | None) -> None:
    """Has JAX keep what it compiles in a folder; without, if the folder can't be written to."""
    if folder is None and "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return  # JAX has read it.
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
    """Where in a folder to keep programs that are compiled for as many cores as we may use.

    XLA divides the work of a CPU by their number, which JAX's key of a program leaves out; the
    CPU's instruction set is part of it.
    """
    allowed = getattr(os, "sched_getaffinity", None)  # Of Linux.
    cores = len(allowed(0)) if allowed else os.cpu_count()
    if "://" in folder:  # A bucket, which JAX itself reaches.
        return f"{folder.rstrip('/')}/cores_{cores}"
    path = pathlib.Path(folder).expanduser() / f"cores_{cores}"
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        return str(path)


class _ConfigFileParser(flags.ArgumentParser):
    """Reads the file of `--config`; keeps the config, and says briefly what is wrong."""

    def __init__(self, parser: flags.ArgumentParser) -> None:
        self._parser = parser
        self.config: ml_collections.ConfigDict | None = None

    def parse(self, argument: str) -> ml_collections.ConfigDict:
        if not pathlib.Path(file := argument.split(":", 1)[0]).is_file():
            raise ValueError(f"no config file {file!r}")
        try:
            self.config = self._parser.parse(argument)
        except ValueError as error:
            # The message of ml_collections is a traceback; the error of get_config is before it.
            raise (error.__context__ or error) from None
        return self.config

    def flag_type(self) -> str:
        return self._parser.flag_type()


def _parse(argv: Sequence[str]) -> list[str]:
    parser = None
    if "config" in flags.FLAGS:
        flag = flags.FLAGS["config"]
        flag.parser = parser = _ConfigFileParser(flag.parser)
    try:
        return app.parse_flags_with_usage(list(argv))
    except (AttributeError, KeyError):
        # How ml_collections answers to an override of a key that the config lacks.
        config = parser and parser.config
        overrides = [flag for flag in argv if flag.startswith(("-config.", "--config."))]
        unknown = config_io.unknown_overrides(config, overrides) if config else []
        if not unknown:
            raise
        sys.exit("\n".join(f"error: {problem}" for problem in unknown))
