"""Prepares, inspects and validates data.

python -m sft_jax.data list
python -m sft_jax.data prepare av_mnist manual_dir=raw train_pairs=8000
python -m sft_jax.data inspect mosei variant=mult_aligned
python -m sft_jax.data inspect raw/mosei_senti_data_noalign.pkl
python -m sft_jax.data validate raw/my_folder
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from sft_jax import config_io
from sft_jax.data import builders, catalog
from sft_jax.data.builder import read_card as builder_card
from sft_jax.data.card import Card, read_card
from sft_jax.data.card_report import print_card
from sft_jax.data_config import DATA_CONFIGS, DataConfig


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; a fault in the data ends in one line and exit status 1."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("sft_jax").setLevel(logging.INFO)
    try:
        options.run(options)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sft_jax.data", description="Prepares, inspects and validates data."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, what in (
        ("list", _list, "the datasets that are known"),
        ("prepare", _prepare, "prepare a dataset from its raw files"),
        ("inspect", _inspect, "print the data card of a prepared dataset, or of raw files"),
        ("validate", _validate, "read raw files to their end and say what is wrong with them"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.set_defaults(run=run)
        if name == "list":
            continue
        if name == "prepare":
            command.add_argument("data", metavar="NAME", choices=[*DATA_CONFIGS])
        else:
            command.add_argument("data", metavar="NAME|FILE" if name == "inspect" else "FILE")
            command.add_argument(
                "--dataset", choices=[*DATA_CONFIGS], help="whose file it is, if it doesn't show"
            )
        if name == "inspect":
            command.add_argument("--json", metavar="FILE", help="write the card there too")
        command.add_argument(
            "fields",
            metavar="FIELD=VALUE",
            nargs="*",
            help="fields of the dataset's config, such as manual_dir=raw; see data_config.py",
        )
    return parser


def _config(values: dict[str, Any], fields: Sequence[str]) -> DataConfig:
    for field in fields:
        key, separator, text = field.partition("=")
        if not separator:
            raise ValueError(f"{field!r} is not FIELD=VALUE")
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[key] = text
    return config_io.from_mapping({"data": values}).data


def _list(_: argparse.Namespace) -> None:
    table = Table("name", "what it is", "what it takes", show_lines=True)
    for name, builder in builders.BUILDERS.items():
        what = (builder.__doc__ or "").splitlines()[0]
        table.add_row(name, what, builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "nothing")
    Console().print(table)


def _prepare(options: argparse.Namespace) -> None:
    builder = catalog.prepare_dataset(_config({"name": options.data}, options.fields))
    print_card(Console(), builder_card(builder))
    print(f"prepared in {builder.data_dir}")


def _inspect(options: argparse.Namespace) -> None:
    if options.data in DATA_CONFIGS and not pathlib.Path(options.data).exists():
        card = catalog.prepared_card(_config({"name": options.data}, options.fields))
    else:
        card = _read(options)
    print_card(Console(), card)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(card.to_json(), indent=2) + "\n")


def _validate(options: argparse.Namespace) -> None:
    card = _read(options)
    print_card(Console(), card)
    total = sum(split.n_examples for split in card.splits.values())
    print(f"{options.data}: all {total} examples can be read")


def _read(options: argparse.Namespace) -> Card:
    path = pathlib.Path(options.data)
    if not path.exists():
        raise FileNotFoundError(
            f"no file or folder {path}, and no dataset of that name: known are"
            f" {', '.join(DATA_CONFIGS)}"
        )
    config = _config(catalog.config_of_path(path, options.dataset), options.fields)
    # What is not finite is counted, not refused.
    return read_card(config.name, catalog.read_raw(config), "zero")


if __name__ == "__main__":
    main()
