"""Run directories, and folders with one run directory for each of several seeds.

This module defines all file names in them. A folder of seeds holds `seed_0`, `seed_1` and so on;
each is a run directory for the config with that `seed` and without `seeds`. The folder itself
holds the config of its last start, whose `seeds` distinguish it from a run directory.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from sft_jax import config_io, version
from sft_jax.config import ExperimentConfig
from sft_jax.runs import storage
from sft_jax.runs.extension import extension, with_epochs
from sft_jax.runs.storage import AnyPath

FOLD = "fold_"
"""First part of the name of a run directory, or folder of seeds, of one fold of the data."""

_SEED = "seed_"


class RunDirectoryError(ValueError):
    """Error for a run directory that can't be used."""


class _Folder:
    """Folder in which training is started, and the record of its starts.

    Attributes:
      path: Folder, local or in a bucket. It need not exist.
      config_file: Config of the last start.
      starts_file: File with one JSON line for each start.
      results: Folder of evaluations.
      lock_file: File that names the process that owns the folder.
    """

    def __init__(self, path: AnyPath) -> None:
        """Names the files; reads and writes nothing.

        Args:
          path: Folder.
        """
        self.path = path
        self.config_file = path / "config.json"
        self.starts_file = path / "starts.jsonl"
        self.results = path / "eval"
        self.lock_file = path / "lock.json"

    def __str__(self) -> str:
        return str(self.path)

    def read_config(self, *, data: bool = True, several: bool = True) -> ExperimentConfig:
        """Reads the config of the last start.

        Args:
          data: Whether to read the section `data`. Without it that section is the default one,
            and the package of a dataset of one's own is not needed.
          several: Whether the folder may hold the runs of several seeds.

        Raises:
          RunDirectoryError: If the folder is not a run directory, or holds several runs and may
            not.
        """
        try:
            values = _read_json(self.config_file)
        except (FileNotFoundError, NotADirectoryError):
            raise RunDirectoryError(
                f"{self} is not a run directory: it has no {self.config_file.name}"
            ) from None
        if not isinstance(values, dict):
            raise RunDirectoryError(f"{self.config_file} is damaged: expected an object")
        if "format_version" in values:
            raise RunDirectoryError(f"{self} is not a run directory: export.py wrote the folder")
        if not data:
            values.pop("data", None)
        config = config_io.from_mapping(values)
        if config.seeds and not several:
            first = self.path / f"{_SEED}{config.seeds[0]}"
            raise RunDirectoryError(
                f"{self} holds the runs of several seeds: give one of them, such as {first}"
            )
        return config

    def read_starts(self) -> list[dict[str, Any]]:
        """Reads the record of each start, except one that was cut short by a kill."""
        if not self.starts_file.exists():
            return []
        lines = self.starts_file.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("}\n")]

    def make_results(self) -> None:
        """Makes the folder of evaluations, unless it exists.

        Raises:
          OSError: If the folder can't be written to.
        """
        storage.prepare_file(self.results / "results")

    def _record_start(self, config: ExperimentConfig, **changes: Any) -> None:
        start = {**_start(config), "changed": [], **changes}
        storage.write_json(self.config_file, config_io.to_json(config))
        if jax.process_index() == 0:
            storage.append(self.starts_file, json.dumps(start) + "\n")

    def _probe(self) -> None:
        try:
            storage.probe(self.path)
        except OSError as error:
            raise RunDirectoryError(
                f"can't write to workdir {self}: {error.strerror or error}"
            ) from None


class RunDirectory(_Folder):
    """The files of one run.

    Attributes:
      dataset_file: Description of the training data.
      card_file: Findings about the training data.
      metrics_file: File with one JSON line for each report of training.
      events: Folder with the same reports for TensorBoard.
      origin_file: Description of the model whose parameters the run began with.
      trace: Folder of profiles.
      checkpoints: Folder of checkpoints.
      damaged: Folder of checkpoints that were moved out of the way.
    """

    def __init__(self, path: AnyPath) -> None:
        """Names the files; reads and writes nothing.

        Args:
          path: Folder.
        """
        super().__init__(path)
        self.dataset_file = path / "dataset.json"
        self.card_file = path / "data_card.json"
        self.metrics_file = path / "metrics.jsonl"
        self.events = path / "tensorboard"
        self.origin_file = path / "init_from.json"
        self.trace = path / "trace"
        self.checkpoints = path / "checkpoints"
        self.damaged = self.checkpoints / "damaged"

    @classmethod
    def open(cls, path: AnyPath, config: ExperimentConfig, *, extend: bool = False) -> RunDirectory:
        """Makes a run directory, or checks that it was made with the same config.

        Fields that do not affect the results, marked `sft_jax.data_config.MAY_CHANGE`, may have
        other values. A run that ended before its first checkpoint has nothing to lose, so its
        whole config may change. The start is recorded with its command, code, versions, devices
        and changes.

        Args:
          path: Run directory.
          config: Experiment, without `seeds`.
          extend: Whether a run with checkpoints may go on to more `train.epochs`
            (`sft_jax.runs.extension`).

        Raises:
          RunDirectoryError: If the folder can't be written to, holds the runs of several seeds,
            or was made with another config. Also if `extend` finds no checkpoint or fewer epochs.
        """
        run = cls(path)
        if run.config_file.exists() and run.read_config().seeds:
            raise RunDirectoryError(
                f"workdir {run} holds the runs of seeds={tuple(SeedsDirectory.existing(path).runs)}"
                ", and a run without seeds needs a folder of its own: give another --workdir, or"
                " --config.seeds"
            )
        run._probe()
        run._record_start(config, **run._changes(config, extend=extend))
        return run

    def _changes(self, config: ExperimentConfig, *, extend: bool) -> dict[str, Any]:
        """Describes changes since the last start, for its record; see `open` for errors."""
        if not self.has_checkpoints():
            if extend:
                raise RunDirectoryError(_nothing_to_extend(self))
            return {}
        before = self.read_config()
        longer = extension(before, config)
        allowed = with_epochs(before, config.train.epochs) if extend and longer else before
        if refused := config_io.differences(allowed, config, results_only=True):
            advice = ""
            if config.train.epochs != allowed.train.epochs:
                advice = "\nMore train.epochs are allowed with --extend; fewer never are"
            raise RunDirectoryError(
                f"workdir {self} was made by another config. Give another --workdir, or"
                " undo these changes:\n  " + "\n  ".join(refused) + advice
            )
        changes: dict[str, Any] = {"changed": config_io.differences(before, config)}
        if longer:
            changes["extended"] = longer.to_json()
            if jax.process_index() == 0:
                longer.log()
        return changes

    def record_dataset(
        self,
        info: Mapping[str, Any],
        card: Mapping[str, Any] | None = None,
        same_statistics: Callable[[Any, Any], bool] = operator.eq,
    ) -> None:
        """Writes the description of the training data, or checks that it is still the same.

        Args:
          info: Description of the dataset, as JSON values.
          card: Findings about the data, as JSON values; None if there are none.
          same_statistics: Function that compares the saved statistics with those of `info`.

        Raises:
          RunDirectoryError: If the run was trained on other data; the message names the
            differences.
        """
        if self.has_checkpoints() and self.dataset_file.exists():
            saved = _read_json(self.dataset_file)
            same = {
                "statistics": same_statistics,
                "metrics": lambda *_: True,
                "fingerprints": lambda *_: True,
            }
            changed = [
                key for key in saved if not same.get(key, operator.eq)(saved[key], info.get(key))
            ]
            if changed:
                raise RunDirectoryError(
                    f"workdir {self} was trained on other data: {', '.join(changed)} differ from"
                    f" {self.dataset_file}. Give another workdir"
                )
        storage.write_json(self.dataset_file, info)
        if card is not None:
            storage.write_json(self.card_file, card)

    def fingerprints(self) -> dict[str, str] | None:
        """Reads the fingerprints of the examples of each split at the start of the run.

        None if the config names the data, or if an old version made the run.
        """
        if not self.dataset_file.exists():
            return None
        return _read_json(self.dataset_file).get("fingerprints")

    def save_chosen(self, name: str, value: Any, *, step: int, **how: str) -> None:
        """Saves a value that was chosen on the validation split.

        Args:
          name: Name of the value and its file, thresholds or temperature.
          value: Threshold by the name of a label or class, or the temperature.
          step: Step of the checkpoint that it was chosen for.
          **how: More about the choice, such as the metric that it maximises.
        """
        values = {**how, "split": "valid", "step": step, name: value}
        storage.write_json(self.path / f"{name}.json", values)

    def thresholds(self, step: int) -> dict[str, float] | None:
        """Reads the thresholds that were chosen for the checkpoint of a step; None without any."""
        return self._chosen("thresholds", step, dict)

    def temperature(self, step: int) -> float | None:
        """Reads the temperature that was fitted for the checkpoint of a step; None without one."""
        return self._chosen("temperature", step, float)

    def _chosen(self, name: str, step: int, convert: Callable[[Any], Any]) -> Any:
        file = self.path / f"{name}.json"
        if not file.exists():
            return None
        values = _read_json(file)
        try:
            return convert(values[name]) if values["step"] == step else None
        except (KeyError, TypeError, ValueError) as error:
            raise RunDirectoryError(f"{file} is damaged: {error!r}") from None

    def has_checkpoints(self) -> bool:
        """Tells whether a checkpoint has been saved, complete or not."""
        return any(path.name.isdecimal() for path in self.checkpoints.glob("*/*"))


class SeedsDirectory(_Folder):
    """Folder with the runs of several seeds.

    Attributes:
      runs: Run directory of each seed.
    """

    def __init__(self, path: AnyPath, seeds: Iterable[int]) -> None:
        """Names the run directories; reads and writes nothing.

        Args:
          path: Folder.
          seeds: Seeds of the runs.
        """
        super().__init__(path)
        self.runs = {seed: RunDirectory(path / f"{_SEED}{seed}") for seed in seeds}

    @classmethod
    def existing(cls, path: AnyPath) -> SeedsDirectory:
        """Finds the runs in a folder, by their seeds in ascending order."""
        names = (folder.name.removeprefix(_SEED) for folder in path.glob(f"{_SEED}*"))
        folder = cls(path, sorted(int(name) for name in names if name.isdecimal()))
        folder.runs = {seed: run for seed, run in folder.runs.items() if run.config_file.exists()}
        return folder

    @classmethod
    def open(
        cls, path: AnyPath, config: ExperimentConfig, *, extend: bool = False
    ) -> SeedsDirectory:
        """Makes the run directories of a config, or checks that its runs may resume.

        Args:
          path: Folder of the run directories.
          config: Experiment, with `seeds`.
          extend: Whether runs with checkpoints may go on to more `train.epochs`.

        Raises:
          RunDirectoryError: If the folder holds a run without seeds, or a run of another seed
            with another config. Also if `RunDirectory.open` refuses one of the runs.
        """
        folder = cls(path, config.seeds)
        if folder.config_file.exists() and not folder.read_config().seeds:
            raise RunDirectoryError(
                f"workdir {folder} holds a run without seeds, and seeds={config.seeds} need a"
                " folder of their own: give another --workdir, or leave --config.seeds out"
            )
        others = cls.existing(path).runs.items()
        check_settings(config, [run for seed, run in others if seed not in folder.runs])
        begun = {seed for seed, run in folder.runs.items() if run.has_checkpoints()}
        if extend and not begun:
            raise RunDirectoryError(_nothing_to_extend(folder))
        for seed, run in folder.runs.items():
            RunDirectory.open(run.path, with_seed(config, seed), extend=extend and seed in begun)
        folder._probe()
        folder._record_start(config)
        return folder

    def record_dataset(
        self,
        info: Mapping[str, Any],
        card: Mapping[str, Any] | None = None,
        same_statistics: Callable[[Any, Any], bool] = operator.eq,
    ) -> None:
        """Records the training data in each run; see `RunDirectory.record_dataset`."""
        for run in self.runs.values():
            run.record_dataset(info, card, same_statistics)


def with_seed(config: ExperimentConfig, seed: int) -> ExperimentConfig:
    """Makes the config of the run with one of several seeds."""
    return dataclasses.replace(config, seed=seed, seeds=())


def check_settings(config: ExperimentConfig, runs: Iterable[RunDirectory]) -> None:
    """Checks that runs have a config's settings, except seeds and fields that may change.

    Raises:
      RunDirectoryError: If a run differs; the message names the run and the differences.
    """
    for run in runs:
        before = run.read_config()
        after = with_seed(config, before.seed)
        if changed := config_io.differences(before, after, results_only=True):
            raise RunDirectoryError(
                f"{run} was made by another config, and the seeds of a folder must differ in"
                " nothing else. Move it elsewhere, give another --workdir, or undo these"
                " changes:\n  " + "\n  ".join(changed)
            )


def _read_json(path: AnyPath) -> Any:
    """Reads a JSON file; raises RunDirectoryError if it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:  # Of the text, or of its JSON.
        raise RunDirectoryError(f"{path} is damaged: {error}") from None


def _nothing_to_extend(folder: _Folder) -> str:
    return f"workdir {folder} has no checkpoint to extend: leave --extend out to begin a run"


def _start(config: ExperimentConfig) -> dict[str, Any]:
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        **version.environment(),
        "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
        "mesh": dataclasses.asdict(config.mesh),
    }
