"""Reports the cost of a config's model, and of other models for comparison.

python -m sft_jax.profile --config=configs/vggsound.py [--config.model.k=4] [--models=sft,mbt]
    [--json=FILE] [--picture=FILE.png] [--batch_sizes=1,8,32]
    [--measure=false]

All models have the config's width, blocks and other settings. Operations are counted. Memory and
time are measured, for each model in a process of its own. `--measure=false` only counts, which
takes seconds. Only configs/npz_folder.py and configs/tfds.py need the data itself.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags
from rich.console import Console

from sft_jax import command_line, config_io, version
from sft_jax.config import ExperimentConfig
from sft_jax.data.dataset import check_task
from sft_jax.data.outline import Outline, outline
from sft_jax.evaluation import pictures
from sft_jax.modules import MODELS
from sft_jax.profile import measure, tables
from sft_jax.runs import storage

COMPARED = ("sft", "mbt", "mult", "late", "concat")
"""Models of the default comparison; models that do not fit the config are left out."""


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command."""
    own: dict[str, Any] = {"flag_values": values}
    command_line.define_config(values, "Config, as FILE or FILE:ARG, or the name of a shipped one.")
    text = f"Some of {', '.join(MODELS)}; default the config's own and {', '.join(COMPARED)}."
    flags.DEFINE_list("models", None, text, **own)
    flags.DEFINE_string("json", None, "File to write all figures to.", **own)
    flags.DEFINE_string("picture", None, "File to draw the operations by stage to.", **own)
    flags.DEFINE_list("batch_sizes", ["1", "8", "32"], "Batch sizes of timed inference.", **own)
    flags.DEFINE_integer("steps", 5, "Number of timed training steps.", lower_bound=1, **own)
    flags.DEFINE_bool("measure", True, "Run the models; otherwise only count.", **own)
    flags.mark_flag_as_required("config", values)


def main() -> None:
    """Counts, measures and reports according to the flags."""
    values = flags.FLAGS
    # The process that measures a model needs exclusive use of an accelerator.
    jax.config.update("jax_platforms", "cpu")
    config, sizes = config_io.from_mapping(values.config), batch_sizes(values.batch_sizes)
    json_file = pathlib.Path(values.json) if values.json else None
    picture = pathlib.Path(values.picture) if values.picture else None
    for path in filter(None, (json_file, picture)):
        storage.prepare_file(path)
    if picture:
        pictures.check_format(picture)
    data = outline(config.data)
    check_task(config.model.task, data.task)
    configs = models_of(config, values.models)
    models = _count(configs, data, optional=values.models is None)
    name = config_flags.get_config_filename(values["config"])
    file = command_line.config_file(name.partition(":")[0])
    report = {**_environment(), "config": config_io.to_json(config), "models": models}
    written = []
    if json_file:
        _write(json_file, report)
        written.append(json_file)
    if picture:
        with pictures.reported(picture):
            tables.draw_costs(picture, models, title=file)
            written.append(picture)
    if values.measure:
        for name in models:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            models[name] |= measure.measure(
                configs[name], data, batch_sizes=sizes, steps=values.steps
            )
            if json_file:
                _write(json_file, report)
    print(
        f"model.n_pre={config.model.n_pre} and model.n_post={config.model.n_post} in each model;"
        f" forward pass of one example, training step of {config.train.batch_size}"
    )
    tables.print_costs(Console(), models)
    for path in written:
        print(f"written: {path}")


def batch_sizes(texts: Sequence[str]) -> list[int]:
    """Reads `--batch_sizes`.

    Raises:
      ValueError: For anything other than whole numbers of at least 1.
    """
    wrong = [text for text in texts if not text.strip().isdecimal() or int(text) < 1]
    if wrong:
        raise ValueError(f"--batch_sizes: {', '.join(wrong)}: expected whole numbers of at least 1")
    return [int(text) for text in texts]


def models_of(
    config: ExperimentConfig, names: Sequence[str] | None = None
) -> dict[str, ExperimentConfig]:
    """Copies a config for each model; the config's own model, if chosen, comes first.

    Args:
      config: Config of the experiment.
      names: Names of the models; by default the config's own and `COMPARED`.

    Raises:
      ValueError: For a name outside of `MODELS`, or no name at all.
    """
    own = config.model.name
    chosen = dict.fromkeys((own, *COMPARED) if names is None else names)
    if unknown := sorted(set(chosen) - {own, *MODELS}):
        raise ValueError(f"--models: unknown model {unknown}, known: {', '.join(MODELS)}")
    if not chosen:
        raise ValueError(f"--models names none; known are {', '.join(MODELS)}")
    return {
        name: dataclasses.replace(config, model=_renamed(config.model, name))
        for name in sorted(chosen, key=lambda name: name != own)
    }


def _renamed(model: ModelConfig, name: Any) -> ModelConfig:
    return dataclasses.replace(model, name=name)


def _count(
    configs: Mapping[str, ExperimentConfig], data: Outline, *, optional: bool
) -> dict[str, dict[str, Any]]:
    """Counts each model; models that do not fit the data are left out if `optional`."""
    counted: dict[str, dict[str, Any]] = {}
    for name, config in configs.items():
        try:
            counted[name] = measure.count(config, data)
        except ValueError as error:
            # The first model is the config's own, which must always fit.
            if not (optional and counted):
                raise
            print(f"without {name}: {error}", file=sys.stderr)
    return counted


def _write(path: pathlib.Path, report: Mapping[str, Any]) -> None:
    storage.write_whole(path, json.dumps(report, indent=2) + "\n")


def _environment() -> dict[str, Any]:
    return {
        "command": ["python", "-m", "sft_jax.profile", *sys.argv[1:]],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        **version.environment(),
    }


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    command_line.run(main)
