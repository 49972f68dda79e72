"""Prepares, inspects and validates data."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import logging
import pathlib
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from sft_jax import config_io, plugins
from sft_jax.data import registry
from sft_jax.data.card import Card
from sft_jax.data.card_report import print_card
from sft_jax.data.records import DataFileError
from sft_jax.data.sets import base
from sft_jax.data.tokens import log_tokens
from sft_jax.wording import plural

_EXAMPLES = """Examples:
  python -m sft_jax.data list
  python -m sft_jax.data list mosei
  python -m sft_jax.data prepare mosei manual_dir=raw variant=mult_noalign
  python -m sft_jax.data inspect mosei
  python -m sft_jax.data inspect raw/mosei_senti_data_noalign.pkl
  python -m sft_jax.data inspect raw/unaligned_50.pkl --dataset mosi --json card.json
  python -m sft_jax.data inspect runs/mosei/data_card.json
  python -m sft_jax.data validate raw/my_folder
"""

_LOGGER = logging.getLogger("sft_jax.data")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; faulty data gives a clear message and exit status 1."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("sft_jax").setLevel(logging.INFO)
    try:
        options.run(options)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the commands and their arguments."""
    form: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": _EXAMPLES}
    program = argparse.ArgumentParser(prog="python -m sft_jax.data", description=__doc__, **form)
    commands = program.add_subparsers(required=True, metavar="COMMAND")
    for run, summary in (
        (_list, "list the known datasets, or the fields of one dataset"),
        (_prepare, "prepare a dataset from its raw files, and print its data card"),
        (_inspect, "print the data card of a prepared dataset, of raw files or of a run"),
        (_validate, "read raw files to their end and say what is wrong with them"),
    ):
        name = run.__name__.removeprefix("_")
        command = commands.add_parser(name, help=summary, description=summary, **form)
        command.set_defaults(run=run)
        if name in ("list", "prepare"):
            optional: Any = {"nargs": "?"} if name == "list" else {}
            known = f"{', '.join(registry.known_datasets())}, or an import path"
            command.add_argument("data", metavar="NAME", type=_dataset, help=known, **optional)
        else:
            _add_file(command, name)
        if name != "list":
            command.add_argument(
                "fields",
                metavar="FIELD=VALUE",
                nargs="*",
                help="fields of the dataset, such as manual_dir=raw; `list NAME` explains them",
            )
    return program


def _dataset(name: str) -> str:
    """Checks the name of a dataset before any other work."""
    try:
        registry.find_dataset(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def _add_file(command: argparse.ArgumentParser, name: str) -> None:
    command.add_argument(
        "data",
        metavar="NAME|FILE" if name == "inspect" else "FILE",
        help="raw file or folder"
        + (", data_card.json, or name of a prepared dataset" if name == "inspect" else ""),
    )
    command.add_argument(
        "--dataset",
        metavar="NAME",
        type=_dataset,
        help=f"dataset of the file, if it doesn't show: {', '.join(registry.with_files())}, or an"
        " import path",
    )
    command.add_argument(
        "--json", metavar="FILE", help="write the card there too; - prints it, in place of tables"
    )


def _config(values: dict[str, Any], fields: Sequence[str]) -> base.DatasetEntry:
    for field in fields:
        key, separator, text = field.partition("=")
        if not separator:
            raise ValueError(f"{field!r} is not FIELD=VALUE, such as manual_dir=raw")
        # Messages shared with train.py include the name of the section.
        key = key.removeprefix("data.")
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[key] = text.split(",") if key == "modalities" else text
    return config_io.from_mapping({"data": values}).data


def _list(options: argparse.Namespace) -> None:
    if options.data:
        print(f"{options.data}: fields, as FIELD=VALUE here and as --config.data.FIELD=VALUE for")
        print("train.py\n")
        kind = registry.find_dataset(options.data)
        print(base.title(kind), "", *base.explain_fields(kind).values(), sep="\n")
        return
    for name, import_path in registry.known_datasets().items():
        kind = registry.find_dataset(name)
        own = name in registry.DATASETS
        needs = f"{kind.needs}." if kind.needs else ""
        lines = [base.title(kind), needs, f"configs/{name}.py" if own else import_path]
        for i, line in enumerate(filter(None, lines)):
            print(_indented(line, f"{name:<12}" if i == 0 else " " * 12))
        print()


def _indented(text: str, first: str) -> str:
    """Wraps text to 80 characters; addresses and names of files are never cut."""
    return textwrap.fill(
        text,
        80,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _prepare(options: argparse.Namespace) -> None:
    config = _config({"name": options.data}, options.fields)
    prepared = registry.prepare_dataset(config)
    log_tokens(config.modality_specs(prepared.card.shapes, prepared.card.forms()))
    print_card(Console(), prepared.card)
    print(f"\nprepared in {prepared.data_dir}")


def _is_dataset(name: str) -> bool:
    return name in registry.known_datasets() or plugins.is_import_path(name)


def _inspect(options: argparse.Namespace) -> None:
    _make_folder(options.json)
    path = pathlib.Path(options.data)
    if not path.exists() and _is_dataset(options.data):
        config = _config({"name": options.data}, options.fields)
        card = registry.prepared_card(config)
        log_tokens(config.modality_specs(card.shapes, card.forms()))
    elif path.suffix == ".json" and path.is_file():
        card = Card.load(path)
    else:
        card = _read(path, options)
    _show(card, options.json)


def _validate(options: argparse.Namespace) -> None:
    _make_folder(options.json)
    card = _read(pathlib.Path(options.data), options)
    _show(card, options.json)
    if options.json == "-":
        return
    total = card.split(card.splits)
    if card.policy == "error" and any(total.not_finite.values()):
        print(
            "\nto prepare it, say what becomes of numbers that are not finite:"
            " not_finite=zero, mean or drop"
        )
    count = len(card.warnings())
    print(
        f"\n{options.data}: all {total.n_examples:,} {plural('example', total.n_examples)}"
        f" can be read, {count or 'no'} {plural('warning', count)}"
    )


def _make_folder(json_file: str | None) -> None:
    """Makes the folder of the JSON file before any slow work starts."""
    if json_file and json_file != "-":
        if (path := pathlib.Path(json_file)).is_dir():
            raise IsADirectoryError(f"--json={json_file} is a folder, expected a file")
        path.parent.mkdir(parents=True, exist_ok=True)


def _show(card: Card, json_file: str | None) -> None:
    text = json.dumps(card.to_json(), indent=2) + "\n" if json_file else ""
    if json_file == "-":
        print(text, end="")
        return
    print_card(Console(), card)
    if json_file:
        pathlib.Path(json_file).write_text(text)


def _read(path: pathlib.Path, options: argparse.Namespace) -> Card:
    if not path.exists():
        known = f"no dataset of that name, only {', '.join(registry.known_datasets())}"
        if _is_dataset(options.data):
            known = "the dataset of that name is not a file: see inspect"
        raise FileNotFoundError(f"no file or folder {path}, and {known}")
    config = _config(registry.config_of_path(path, options.dataset), options.fields)
    _LOGGER.info("reading %s", path)
    try:
        raw = registry.read_raw(config)
        # An inspection counts numbers that are not finite and never refuses them.
        card = Card.count(config.store_name(), raw, "zero")
        log_tokens(config.modality_specs(card.shapes, card.forms()))
    except ValueError as error:
        where = "" if str(path) in str(error) else f"{path}: "
        raise DataFileError(f"{where}{error}") from error
    return dataclasses.replace(card, policy=config.policy)


if __name__ == "__main__":
    main()
