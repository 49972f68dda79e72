"""Accuracies of models, read from the results of a benchmark."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pathlib
from collections.abc import Iterable, Mapping

from sft_jax import config_io
from sft_jax.config import ExperimentConfig


def accuracies(
    path: pathlib.Path, configs: Mapping[str, ExperimentConfig], config_file: str
) -> dict[str, tuple[float, float | None]]:
    """Reads the mean accuracy of models from a file, and its deviation or None.

    Args:
      path: JSON file with `models`, each with `accuracy_mean` and optionally `accuracy_std`. A
        model has its name in `configs` or, as in files of the benchmarks, the argument of the
        config file that makes the same experiment.
      configs: Config of each model by name.
      config_file: Config file, with or without an argument.

    Raises:
      ValueError: If the file has another form, or contains none of the models.
      OSError: If the file can't be read.
    """
    try:
        models = json.loads(path.read_text())["models"]
        rows = {name: row for name, row in models.items() if "accuracy_mean" in row}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not JSON with `models` by name: {error!r}") from error
    names = {_essence(config): name for name, config in configs.items()}
    labels = _essences(config_file.split(":", 1)[0], rows)
    matches: dict[str, tuple[float, float | None]] = {}
    for label, row in rows.items():
        name = label if label in configs else names.get(labels.get(label, ""))
        if name and (name not in matches or label == name):
            matches[name] = (row["accuracy_mean"], row.get("accuracy_std"))
    if not matches:
        raise ValueError(
            f"{path} has none of the models {', '.join(configs)}; it has"
            f" {', '.join(map(repr, rows)) or 'no accuracy'}"
        )
    return {name: matches[name] for name in configs if name in matches}


def _essences(file: str, labels: Iterable[str]) -> dict[str, str]:
    """Maps each label that is an argument of a config file to the text of its experiment."""
    spec = importlib.util.spec_from_file_location("config_of_results", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    essences = {}
    for label in labels:
        with contextlib.suppress(ValueError):  # The label is not an argument of the file.
            essences[label] = _essence(config_io.from_mapping(module.get_config(label)))
    return essences


def _essence(config: ExperimentConfig) -> str:
    """Formats an experiment as text, without the folders of its data."""
    values = config_io.to_json(config)
    values["data"] = {k: v for k, v in values["data"].items() if not k.endswith("_dir")}
    return json.dumps(values, sort_keys=True)
