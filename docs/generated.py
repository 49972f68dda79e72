"""Parts of the pages that are made from the code, when mkdocs builds.

A page asks for one by a line such as `<!-- generated: config -->`. The name of the part may be
followed by arguments. Parts from files of results stand in the pages (`benchmarks/tables`).
"""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic.fields import FieldInfo

from sft_jax import config as configs
from sft_jax.data.sets import base
from sft_jax.data.sets.table import DATASETS
from sft_jax.export import EXPORTERS
from sft_jax.export.features import ALL
from sft_jax.modules import MODELS
from sft_jax.ops.attention.kernels import AUTO, KERNELS
from sft_jax.ops.losses import LOSSES
from sft_jax.ops.pool import POOLS

ROOT = pathlib.Path(__file__).parents[1]

_MARKER = re.compile(r"<!-- generated: (\w+)((?: [\w.=,/-]+)*) -->")
_TABLES = {
    "model.name": [*MODELS],
    "model.pool": [*POOLS],
    "model.attention_kernel": [AUTO, *KERNELS],
    "train.loss": [AUTO, *LOSSES],
}
"""Names that a field takes beside import paths, which its type does not tell."""
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_TYPES = {int: "integer", float: "number", str: "text", bool: "`True` or `False`", Any: "any value"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills in the generated parts of a page; mkdocs calls it for each."""
    return _MARKER.sub(lambda match: PARTS[match[1]](*match[2].split()), markdown)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a vertical bar in a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(str(c).replace('|', '&#124;') for c in line)} |" for line in lines
    )


def descriptions(kind: type) -> dict[str, str]:
    """The entries of the section `Attributes` of a Google-style docstring, by name.

    Base classes describe the fields that they define.

    Raises:
      ValueError: If a field of the dataclass has no entry.
    """
    texts: dict[str, str] = {}
    for base_kind in reversed(kind.__mro__):
        _, _, section = inspect.cleandoc(base_kind.__doc__ or "").partition("Attributes:\n")
        section = section.partition("\n\n")[0]
        entries = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", section, re.MULTILINE)
        texts |= {name: " ".join(text.split()) for name, text in entries}
    names = [field.name for field in dataclasses.fields(kind) if field.name != "name"]
    if lacking := [name for name in names if name not in texts]:
        raise ValueError(f"the docstring of {kind.__name__} lacks {', '.join(lacking)}")
    return texts


def type_text(hint: Any) -> str:
    """The values that a type hint with pydantic's bounds allows, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        base, *extras = arguments
        bounds = [
            f"{word} {getattr(limit, name):,}"
            for extra in extras
            for limit in (extra.metadata if isinstance(extra, FieldInfo) else [])
            for name, word in _BOUNDS.items()
            if hasattr(limit, name)
        ]
        return " and ".join([type_text(base), *bounds]).replace(" and ", " ", 1)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return "; or ".join(map(type_text, arguments))
    if origin is dict:
        return f"mapping from {type_text(arguments[0])} to {type_text(arguments[1])}"
    if origin is tuple:
        inner = [type_text(a) for a in arguments if a is not Ellipsis]
        return f"tuple of {inner[0]}" if ... in arguments else f"({', '.join(inner)})"
    return _TYPES.get(hint, getattr(hint, "__name__", str(hint)))


def default_text(field: dataclasses.Field[Any]) -> str:
    """The default of a field as Python code; nothing for a field that must be set."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if isinstance(value, FieldInfo):
        value = value.get_default(call_default_factory=True)
    if value is dataclasses.MISSING:
        return ""
    if value in ("", (), {}):
        return "empty"
    return f"`{value}`"


def fields_table(kind: type, prefix: str) -> str:
    """The fields of a config class: flag, allowed values, default and description."""
    hints = typing.get_type_hints(kind, include_extras=True)
    texts = descriptions(kind)
    rows = []
    for field in dataclasses.fields(kind):
        is_section = dataclasses.is_dataclass(hints[field.name]) or field.name == "data"
        if (not prefix and is_section) or f"{prefix}{field.name}" == "data.name":
            continue
        text = texts[field.name]
        may_change = " May change when a run resumes." if field.metadata.get("may_change") else ""
        text = f"{text[0].upper()}{text[1:]}{may_change}"
        name = f"`{prefix}{field.name}`"
        allowed = type_text(hints[field.name])
        if known := _TABLES.get(f"{prefix}{field.name}"):
            allowed = f"{', '.join(f'`{option}`' for option in known)}; or an import path"
        rows.append([name, allowed, default_text(field), text])
    return table(["field", "allowed", "default", "meaning"], rows)


def sections() -> Iterator[tuple[str, type]]:
    """The sections of an experiment's config except `data`, by name."""
    hints = typing.get_type_hints(configs.ExperimentConfig)
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint) and name != "data":
            yield name, hint


def config() -> str:
    """The reference of every field of a config."""
    text = ["## Top level\n", fields_table(configs.ExperimentConfig, "")]
    for name, kind in sections():
        summary = (inspect.getdoc(kind) or "").partition("\n\n")[0]
        text += [f"\n## {name}\n", f"{summary}\n", fields_table(kind, f"{name}.")]
    return "\n".join(text)


def datasets() -> str:
    """The table of the datasets of this library."""
    rows = [
        [f"`{name}`", base.title(kind), re.sub(r"(https://\S+?)(?=,? |,?$)", r"<\1>", kind.needs)]
        for name, kind in DATASETS.items()
    ]
    return table(["`data.name`", "contents", "raw files, in `data.manual_dir`"], rows)


def data() -> str:
    """The reference of every field of every dataset."""
    text = []
    for name, kind in DATASETS.items():
        text += [
            f"### data.name={name}\n",
            f"{base.title(kind)}\n",
            fields_table(kind, "data."),
            "",
        ]
    return "\n".join(text)


def listing(file: str) -> str:
    """A Python file of the repository."""
    return f"```python\n{(ROOT / file).read_text()}```"


def exports() -> str:
    """The formats of exported files, and which features of models each takes."""
    formats = EXPORTERS.values()
    takes = {
        f"{name} `{value}`": [not e.problems({name: frozenset({value})}) for e in formats]
        for name, values in ALL.items()
        for value in values
    }
    takes["`k` chosen when it runs"] = [e.any_k for e in formats]
    takes["weights of `int8`"] = [e.quantizes for e in formats]
    rows = [[name, *("yes" if yes else "—" for yes in cells)] for name, cells in takes.items()]
    return table(["", *(f"`{name}`" for name in EXPORTERS)], rows)


PARTS: dict[str, Callable[..., str]] = {
    "config": config,
    "data": data,
    "datasets": datasets,
    "exports": exports,
    "listing": listing,
}
