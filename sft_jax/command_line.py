"""What train.py and eval.py share: wrong flags and expected errors end in one clear line."""

from __future__ import annotations

import logging
import pathlib
import sys
from collections.abc import Callable, Sequence

import absl.logging
import ml_collections
from absl import app, flags

from sft_jax import config_io


def run(main: Callable[[], None]) -> None:
    """Parses the flags and runs `main`.

    A ValueError, OSError, missing module or non-finite number is taken for the user's to
    mend: its message is printed and the exit status is 1. Anything else is a defect of
    ours and is shown with its traceback. So is everything with `--debug`.
    """
    flags.DEFINE_bool("debug", False, "Show the traceback of every error.")

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            sys.exit(f"error: unexpected arguments {argv[1:]}; flags are written --NAME=VALUE")
        # Orbax says at INFO what it does with each file.
        absl.logging.set_verbosity(absl.logging.WARNING)
        logging.getLogger("sft_jax").setLevel(logging.INFO)
        try:
            main()
        except (ValueError, OSError, ModuleNotFoundError, ArithmeticError) as error:
            if flags.FLAGS.debug:
                raise
            sys.exit(f"error: {error}\n(--debug shows where)")

    app.run(guarded, flags_parser=_parse)


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
