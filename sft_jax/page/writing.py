"""The page of a run, `report.html`: one file that needs no network, made of the run's files."""

from __future__ import annotations

import io
import json
import string
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jax
from rich.console import Console

from sft_jax import config_io, version
from sft_jax.config import ExperimentConfig
from sft_jax.data.card import Card
from sft_jax.data.card_report import print_card
from sft_jax.data.dataset import DatasetInfo
from sft_jax.data.outline import Outline
from sft_jax.evaluation import pictures, run_plots
from sft_jax.page import markup, results
from sft_jax.profile import measure
from sft_jax.profile.flops import STAGES
from sft_jax.profile.tables import flops_unit
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory
from sft_jax.runs.storage import AnyPath

FILE = "report.html"


def write(run: RunDirectory) -> AnyPath:
    """Writes the page of a run from the files of its directory, and draws its learning curves.

    Results are those in `eval/`. What a run lacks, such as a data card, is left out. Only the
    first of several processes writes the page.

    Args:
      run: Run directory.

    Returns:
      Path of the page.
    """
    path = run.path / FILE
    if jax.process_index():
        return path
    config, found = run.read_config(data=False, several=False), results.read_results(run)
    info = _info(run)
    parts = resources.files("sft_jax.page") / "parts"
    content = "\n".join(
        [
            *results.sections(run, found),
            _learning(run, found),
            _cost(config, info) if info else "",
            _card(run),
            _settings(run),
            _starts(run),
        ]
    )
    filled = string.Template((parts / "page.html").read_text()).substitute(
        title=markup.text(run.path.name),
        summary=markup.text(_summary(config, info)),
        style=(parts / "page.css").read_text(),
        content=content,
        footer=markup.text(f"{run} · sft_jax {version.__version__}"),
    )
    storage.write_whole(path, filled)
    return path


def _info(run: RunDirectory) -> DatasetInfo | None:
    """Description of the training data; None for a run without the file."""
    if not run.dataset_file.exists():
        return None
    return DatasetInfo.from_json(json.loads(run.dataset_file.read_text()))


def _summary(config: ExperimentConfig, info: DatasetInfo | None) -> str:
    model = config.model
    described = f"model {model.name}, {model.task.replace('_', '-')}"
    if info is None:
        return described
    counts = ", ".join(f"{count:,} {split}" for split, count in info.num_examples.items())
    inputs = ", ".join(sorted(info.modalities))
    return f"{described} of {len(info.class_names)}, from {inputs}; {counts} examples"


def _learning(run: RunDirectory, found: Mapping[str, Mapping[str, Any]]) -> str:
    scalars = run_plots.read_scalars(run)
    if not any(name.startswith("valid/") for name in scalars):
        return ""
    best = [r["step"] for r in found.values() if r.get("checkpoint") == "best" and "step" in r]
    path = run.results / "learning_curves.png"
    with pictures.reported(path):
        run_plots.draw_learning_curves(path, scalars, run.path.name, best[0] if best else None)
    return markup.section("Training", markup.picture(path, "Reports of training and validation"))


def _cost(config: ExperimentConfig, info: DatasetInfo) -> str:
    """Operations by stage. Models of other packages may have operations of unknown cost."""
    outline = Outline(info.modalities, len(info.class_names), info.task)
    try:
        cost = measure.count(config, outline)
    except (ValueError, NotImplementedError) as error:
        return markup.section("Cost", f"<p>{markup.text(f'It cannot be counted: {error}')}</p>")
    unit, letter = flops_unit(cost["forward_flops"])
    total = max(cost["forward_flops"], 1)
    stages = {
        stage.replace("_", "-"): (
            cost["stage_flops"][stage] / total,
            f"{cost['stage_flops'][stage] / unit:.3g} {letter}FLOPs,"
            f" {cost['stage_flops'][stage] / total:.1%}",
        )
        for stage in STAGES
        if cost["stage_flops"][stage]
    }
    shown = {
        "parameters": f"{cost['parameters']:,}",
        f"{letter}FLOPs of one example": f"{cost['forward_flops'] / unit:.3g}",
    }
    note = "Matrix products of the forward pass of one example of full length, by stage."
    return markup.section("Cost", markup.tiles(shown), markup.bars(stages), f"<p>{note}</p>")


def _card(run: RunDirectory) -> str:
    if not run.card_file.exists():
        return ""
    console = Console(record=True, file=io.StringIO(), width=110)
    print_card(console, Card.load(run.card_file))
    return markup.section("Data", markup.preformatted(console.export_text()))


def _settings(run: RunDirectory) -> str:
    """The config; values other than the default ones are marked."""
    values = json.loads(run.config_file.read_text())
    default = config_io.to_json(ExperimentConfig())
    plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
    groups = {"": plain} | {name: v for name, v in values.items() if isinstance(v, dict)}
    tables = []
    for name, fields in groups.items():
        usual = default if not name else default.get(name, {})
        rows = "".join(
            f"<tr><th>{markup.text(field)}</th>"
            f"<td{_changed(value, usual, field)}>{markup.text(json.dumps(value))}</td></tr>\n"
            for field, value in fields.items()
        )
        heading = f"<h3>{markup.text(name or 'experiment')}</h3>"
        tables.append(f'<div>{heading}<table class="settings"><tbody>{rows}</tbody></table></div>')
    note = "<p>Values other than the default ones are marked.</p>"
    return markup.section("Config", note, markup.side_by_side(*tables))


def _changed(value: Any, usual: Mapping[str, Any], field: str) -> str:
    return "" if field in usual and usual[field] == value else ' class="changed"'


def _starts(run: RunDirectory) -> str:
    rows = [
        (
            start.get("time"),
            " ".join(map(str, start.get("command", []))),
            f"{start.get('processes', 1)} x {', '.join(start.get('devices', []))}",
            json.dumps(start.get("code")),
        )
        for start in run.read_starts()
    ]
    return markup.section(
        "Starts of training", markup.table(["time", "command", "devices", "code"], rows)
    )
