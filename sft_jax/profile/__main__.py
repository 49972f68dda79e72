"""What the model of a config costs, beside the models to compare it with.

python -m sft_jax.profile --config=configs/vggsound.py [--config.model.k=4] [--models=sft,mbt]
    [--json=FILE] [--picture=FILE.png] [--results=FILE.json] [--batch_sizes=1,8,32]
    [--measure=false]

Each model has the config's width, blocks and all else. Operations are counted; memory and time are
measured, each model in a process of its own. `--measure=false` counts alone, in seconds. No data
is needed but for configs/npz_folder.py and configs/tfds.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
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
from sft_jax.runs.directory import write_json

COMPARED = ("sft", "mbt", "mult", "late", "concat")
"""The models that are looked at by default, as far as they can be built."""


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command."""
    own: dict[str, Any] = {"flag_values": values}
    config_flags.DEFINE_config_file("config", None, "Config file, as FILE or FILE:ARG.", **own)
    what = f"Some of {', '.join(MODELS)}; default the config's own and {', '.join(COMPARED)}."
    flags.DEFINE_list("models", None, what, **own)
    flags.DEFINE_string("json", None, "File to write all figures to.", **own)
    flags.DEFINE_string("picture", None, "File to draw the operations by stage to.", **own)
    what = "JSON of a benchmark; its accuracies are drawn against operations."
    flags.DEFINE_string("results", None, what, **own)
    flags.DEFINE_list("batch_sizes", ["1", "8", "32"], "What inference is timed at.", **own)
    flags.DEFINE_integer("steps", 5, "Training steps that are timed.", lower_bound=1, **own)
    flags.DEFINE_bool("measure", True, "Whether to run the models; else to count alone.", **own)
    flags.mark_flag_as_required("config", values)


def main() -> None:
    """Counts, measures and reports what the flags say."""
    values = flags.FLAGS
    # Each model is measured in a process of its own, which needs an accelerator to itself.
    jax.config.update("jax_platforms", "cpu")
    config, sizes = config_io.from_mapping(values.config), batch_sizes(values.batch_sizes)
    if values.results and not values.picture:
        raise ValueError("--results is drawn beside the operations, so it needs --picture")
    json_file = pathlib.Path(values.json) if values.json else None
    picture = pathlib.Path(values.picture) if values.picture else None
    for path in filter(None, (json_file, picture)):
        storage.prepare_file(path)
    if picture:
        pictures.check_format(picture)
    data = outline(config.data)
    check_task(config.model.task, data.task)
    configs = models_of(config, values.models)
    counted = _count(configs, data, optional=values.models is None)
    file = config_flags.get_config_filename(values["config"])
    found = accuracies(pathlib.Path(values.results), configs, file) if values.results else None
    report = {**_environment(), "config": config_io.to_json(config), "models": counted}
    written = []
    if json_file:
        write_json(json_file, report)
        written.append(json_file)
    if picture:
        with pictures.reported(picture):
            tables.draw_costs(picture, counted, found, title=file)
            written.append(picture)
    if values.measure:
        for name in counted:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            counted[name] |= measure.measure(
                configs[name], data, batch_sizes=sizes, steps=values.steps
            )
            if json_file:
                write_json(json_file, report)
    every = "model.n_pre={n_pre} and model.n_post={n_post} in each model".format(
        **dataclasses.asdict(config.model)
    )
    print(f"{every}; forward pass of one example, training step of {config.train.batch_size}")
    tables.print_costs(Console(), counted)
    for path in written:
        print(f"written: {path}")


def batch_sizes(texts: Sequence[str]) -> list[int]:
    """Reads `--batch_sizes`.

    Raises:
      ValueError: for what is not a whole number of at least 1.
    """
    wrong = [text for text in texts if not text.strip().isdecimal() or int(text) < 1]
    if wrong:
        raise ValueError(f"--batch_sizes: {', '.join(wrong)}: expected whole numbers of at least 1")
    return [int(text) for text in texts]


def models_of(
    config: ExperimentConfig, names: Sequence[str] | None = None
) -> dict[str, ExperimentConfig]:
    """The config once for each model, the config's own model first if it is one of them.

    Args:
      config: of the experiment.
      names: of the models; by default the config's own and `COMPARED`.

    Raises:
      ValueError: for a name that is not one of `MODELS`, or none at all.
    """
    own = config.model.name
    chosen = dict.fromkeys((own, *COMPARED) if names is None else names)
    if unknown := sorted(set(chosen) - {own, *MODELS}):
        raise ValueError(f"--models: unknown model {unknown}, known: {', '.join(MODELS)}")
    if not chosen:
        raise ValueError(f"--models names none; known are {', '.join(MODELS)}")
    changes: list[dict[str, Any]] = [
        {"name": name} for name in sorted(chosen, key=lambda name: name != own)
    ]
    return {
        of["name"]: dataclasses.replace(config, model=dataclasses.replace(config.model, **of))
        for of in changes
    }


def _count(
    configs: Mapping[str, ExperimentConfig], data: Outline, *, optional: bool
) -> dict[str, dict[str, Any]]:
    """What is counted of each; the first must fit the data, and if not `optional` all must."""
    counted: dict[str, dict[str, Any]] = {}
    for name, config in configs.items():
        try:
            counted[name] = measure.count(config, data)
        except ValueError as error:
            if not (optional and counted):
                raise
            print(f"without {name}: {error}", file=sys.stderr)
    return counted


def accuracies(
    path: pathlib.Path, configs: Mapping[str, ExperimentConfig], config_file: str
) -> dict[str, tuple[float, float | None]]:
    """Mean and, if known, deviation of the accuracies of those models that a file tells of.

    Args:
      path: of JSON with `models`, each with `accuracy_mean` and perhaps `accuracy_std`. They are
        called as here or, as the benchmarks do, by an argument of the config file that makes the
        same experiment.
      configs: name to config of each model here.
      config_file: the file, with or without an argument.

    Raises:
      ValueError: if the file is not of that form, or tells of none of the models.
      OSError: if it can't be read.
    """
    try:
        results = json.loads(path.read_text())["models"]
        known = {name: of for name, of in results.items() if "accuracy_mean" in of}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not JSON with `models` by name: {error!r}") from error
    of_argument = {_essence(config): name for name, config in configs.items()}
    found: dict[str, tuple[float, float | None]] = {}
    arguments = _arguments(config_file.split(":", 1)[0], known)
    for label, of in known.items():
        name = label if label in configs else of_argument.get(arguments.get(label, ""))
        if name and (name not in found or label == name):
            found[name] = (of["accuracy_mean"], of.get("accuracy_std"))
    if not found:
        raise ValueError(
            f"{path} tells of none of the models {', '.join(configs)}; it has"
            f" {', '.join(map(repr, known)) or 'no accuracy'}"
        )
    return {name: found[name] for name in configs if name in found}


def _arguments(file: str, labels: Iterable[str]) -> dict[str, str]:
    """Label to the essence of the experiment that it makes, of those that are arguments."""
    spec = importlib.util.spec_from_file_location("config_of_results", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = {}
    for label in labels:
        with contextlib.suppress(ValueError):  # It is no argument.
            made[label] = _essence(config_io.from_mapping(module.get_config(label)))
    return made


def _essence(config: ExperimentConfig) -> str:
    """What makes an experiment, which where the data lies does not."""
    values = config_io.to_json(config)
    values["data"] = {k: v for k, v in values["data"].items() if not k.endswith("_dir")}
    return json.dumps(values, sort_keys=True)


def _environment() -> dict[str, Any]:
    return {
        "command": sys.argv,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        **version.environment(),
    }


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    command_line.run(main)
