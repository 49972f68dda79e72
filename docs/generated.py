"""Parts of the pages that are made from the code and from files of results, when mkdocs builds.

A page asks for one by a line such as `<!-- generated: config -->`. The name of the part may be
followed by arguments.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import pathlib
import re
import statistics
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic.fields import FieldInfo

from sft_jax import config as configs
from sft_jax.data.registry import DATASETS
from sft_jax.data.sets import base
from sft_jax.export import EXPORTERS
from sft_jax.export.features import ALL
from sft_jax.modules import MODELS
from sft_jax.ops.attention.kernels import AUTO, KERNELS
from sft_jax.ops.losses import LOSSES
from sft_jax.ops.pool import POOLS

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

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


def load_result(file: str) -> Any:
    """A file of `benchmarks/results` as JSON values."""
    return json.loads((RESULTS / file).read_text())


def score(model: dict[str, Any], digits: int = 3) -> str:
    """Mean accuracy of a model over its seeds, with the sample standard deviation."""
    return f"{model['accuracy_mean']:.{digits}f} ± {model['accuracy_std']:.{digits}f}"


def accuracies(file: str) -> str:
    """Test accuracy, parameters and MFLOPs of every model of an ablation."""
    models = load_result(file)["models"]
    timed = any("train_step_seconds" in model for model in models.values())
    header = ["model", "test accuracy", "parameters", "MFLOPs"]
    rows = []
    for name, model in models.items():
        row = [f"`{name}`", score(model)]
        row += [f"{model[key]:,}" for key in ("parameters",) if key in model] or ["—"]
        row += [f"{model[key] / 1e6:.2f}" for key in ("forward_flops",) if key in model] or ["—"]
        if timed:
            seconds = model.get("train_step_seconds")
            row.append(f"{seconds * 1e3:.0f}" if seconds else "—")
        rows.append(row)
    return table([*header, *(["ms per training step"] if timed else [])], rows)


def costs(file: str) -> str:
    """Cost of the models of a file of `python -m sft_jax.profile`."""
    names = {"sft": "SFT", "mbt": "MBT", "late": "late fusion"}
    rows = [
        [names[name], *cost_cells(model), f"{model['latency_seconds'] * 1e3:.0f}"]
        for name, model in load_result(file)["models"].items()
    ]
    header = ["model", "MFLOPs", "ms per training step", "MiB of training", "ms per example"]
    return table(header, rows)


def growth() -> str:
    """Exponents by which time and memory of one self-attention grow with the sequence."""
    names = {"exact": "exact, in tiles", "sparse": "windows", "plain": "exact, `plain`"}
    rows = []
    for kind, measured in load_result("growth.json")["kinds"].items():
        slope = measured["slopes"][-1]
        shortest, longest = slope["lengths"]
        figures = [f"{slope[key]:.2f}" for key in ("cpu_seconds", "temporary_bytes")]
        rows.append([names[kind], f"{shortest:,} to {longest:,}", *figures])
    return table(["attention", "tokens", "time", "memory"], rows)


def elastic(file: str) -> str:
    """Test accuracy of an elastic model in percent, beside models for one budget or patch size."""
    models = load_result(file)["models"]
    one, other = (name for name, row in models.items() if "budgets" in row)
    kind = "k" if "k" in models[one]["budgets"][0] else "stride"
    settings = [row[kind] for row in models[one]["budgets"]]
    # Rows of patch sizes are in the order of the strides.
    names = [f"k={k}" for k in settings] if kind == "k" else [n for n in models if n != one]
    values = {
        "one elastic model": _by_budget(models[one]),
        f"trained with `{other}`": _by_budget(models[other]),
        "trained for the column": [models[name]["accuracies"] for name in names],
    }
    first, second, third = values.values()
    rows = [[name, *map(_percent, columns)] for name, columns in values.items()]
    rows += [
        [f"elastic minus {row} row, paired", *map(_paired, first, columns)]
        for row, columns in {"second": second, "third": third}.items()
    ]
    flops = [f"{row['flops'] / 1e6:.2f}" for row in models[one]["budgets"]]
    return table(["", *(f"{kind} = {s}" for s in settings)], [*rows, ["MFLOPs", *flops]])


def _by_budget(row: dict[str, Any]) -> list[list[float]]:
    return [budget["test"]["values"] for budget in row["budgets"]]


def _percent(values: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


def _paired(values: Sequence[float], others: Sequence[float]) -> str:
    each = [100 * (value - other) for value, other in zip(values, others, strict=True)]
    return f"{statistics.fmean(each):+.1f} ({min(each):+.1f} to {max(each):+.1f})"


def elastic_step() -> str:
    """Cost of a training step of each elastic model, beside that of other rows of its suite."""
    rows = [
        [f"`{suite}`", f"`{other}`", "{:.2f} ({:.2f} to {:.2f})".format(r["median"], *r["range"])]
        for suite, measured in load_result("elastic_step.json").items()
        if isinstance(measured, dict) and "elastic_over" in measured
        for other, r in measured["elastic_over"].items()
    ]
    return table(["suite", "compared with", "elastic step over it, median (range)"], rows)


def edge() -> str:
    """Cost of a window by runtime: for each k, and the rest for that of the training."""
    result = load_result("edge.json")
    own, budgets = str(result["k"]), list(result["rows"]["jax"]["k"])
    rows = []
    for row in result["rows"].values():
        figures = row["k"][own]
        cells = [row["title"], f"{row['bytes'] / 1e3:,.0f}"]
        for k in budgets:
            cells.append(f"{row['k'][k]['wall']['median']:,.0f}" if k in row["k"] else "—")
        difference = f"{figures['largest_difference']:.2g}".replace("e-0", "e-")
        cells += [f"{figures['ratio']['median']:.2f}", difference]
        same = f"{figures['same_class']:,} of {result['n_examples']:,}"
        rows.append([*cells, same, f"{figures['accuracy']:.4f}"])
    times = [f"µs, k = {k}" for k in budgets]
    compared = [f"over JAX, k = {own}", "difference", "same class", "accuracy"]
    skipped = "".join(f"\n\n{name}: {reason}." for name, reason in result["skipped"].items())
    return table(["runtime", "kB", *times, *compared], rows) + skipped


def first_prediction() -> str:
    """Seconds from the start of a process to its first prediction, and their parts."""
    kinds = load_result("first_prediction.json")["seconds"]
    rows = [
        [
            kind,
            *("{:.2f} ({:.2f} to {:.2f})".format(p["median"], *p["range"]) for p in row.values()),
        ]
        for kind, row in kinds.items()
    ]
    return table(["cache", *kinds["cold"]], rows)


def imbalance() -> str:
    """Metrics of ways to train on unequal classes, mean and deviation over seeds."""
    ways = load_result("imbalance.json")["ways"]
    names = ("roc_auc", "average_precision", "balanced_accuracy", "macro_f1", "brier")
    rows = [
        [
            ", ".join(f"`{field}={value}`" for field, value in own["train"].items()) or "defaults",
            *(f"{own[name]['mean']:.3f} ± {own[name]['std']:.3f}" for name in names),
        ]
        for own in ways.values()
    ]
    return table(["`train`", *(f"`{name}`" for name in names)], rows)


def listing(file: str) -> str:
    """A Python file of the repository."""
    return f"```python\n{(ROOT / file).read_text()}```"


def cost_cells(model: dict[str, Any]) -> list[str]:
    """MFLOPs of one example, ms of a training step, MiB that training adds to the process."""
    return [
        f"{model['forward_flops'] / 1e6:,.0f}",
        f"{model['train_step_seconds'] * 1e3:,.0f}",
        f"{model['train_peak_rss_bytes'] / 2**20:,.0f}",
    ]


def models() -> str:
    """Models of the smartwatch by `sft_jax.compare`: the first table of the README."""
    result = load_result("models.json")
    rows = []
    # The baseline first.
    for line in sorted(result["lines"], key=lambda line: line["difference"] is not None):
        name = line["name"].removeprefix("model.name=")
        cells = ["", ""]
        if own := line["difference"]:
            bounds = (own["runs"], own["examples"])
            spans = [f"{100 * low:+.1f} to {100 * high:+.1f}" for low, high in bounds]
            cells = [f"{100 * own['mean']:+.1f}", "; ".join(spans)]
        accuracy = f"{100 * line['mean']:.1f} ± {100 * line['std']:.1f}"
        costs = [f"{line['flops'] / 1e6:.2f}", f"{line['milliseconds']:.2f}"]
        rows.append([f"`{name}`", accuracy, *cells, f"{line['parameters']:,}", *costs])
    baseline = result["baseline"].removeprefix("model.name=")
    header = ["model", "test accuracy, %", f"minus `{baseline}`", "95 %: seeds; windows"]
    return table([*header, "parameters", "MFLOPs", "ms"], rows)


def comparison() -> str:
    """SFT beside MBT, in accuracy and cost: the second table of the README."""
    digits = load_result("av_mnist.json")["models"]
    rows = []
    for name, label in (("k=4", "SFT"), ("model=mbt", "MBT")):
        model = digits[name]
        step = model["train_step_seconds"]
        cells = [score(model), f"{model['forward_flops'] / 1e6:.2f}", f"{step * 1e3:.0f}", "—"]
        rows.append(["AV-MNIST", label, *cells])
    for title, file in (("VGGSound", "vggsound"), ("CMU-MOSEI", "mosei")):
        models = load_result(f"profile_{file}.json")["models"]
        for name in ("sft", "mbt"):
            rows.append([title, name.upper(), "—", *cost_cells(models[name])])
    header = ["data", "model", "test accuracy", "MFLOPs", "ms per training step", "MiB of training"]
    return table(header, rows)


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


def provenance() -> str:
    """The command and the commit of every file of results."""
    rows = []
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        command = result.get("command", "")
        command = command if isinstance(command, str) else " ".join(command)
        commit = (result.get("code") or {}).get("commit", "")[:7]
        rows.append([f"`{path.name}`", f"`{command}`" if command else "—", commit or "—"])
    return table(["file", "command", "commit"], rows)


PARTS: dict[str, Callable[..., str]] = {
    "config": config,
    "data": data,
    "datasets": datasets,
    "accuracies": accuracies,
    "costs": costs,
    "growth": growth,
    "comparison": comparison,
    "elastic": elastic,
    "elastic_step": elastic_step,
    "edge": edge,
    "first_prediction": first_prediction,
    "imbalance": imbalance,
    "models": models,
    "listing": listing,
    "exports": exports,
    "provenance": provenance,
}
