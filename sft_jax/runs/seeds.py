"""A folder with one run for each of several seeds: `WORKDIR/seed_0`, `WORKDIR/seed_1` and so on.

Each is a run directory of its own, of the config with that `seed` and no `seeds`. The folder
itself holds the `config.json` of the last start, whose `seeds` tell it from a run directory.
"""

from __future__ import annotations

import dataclasses

from sft_jax.config import ExperimentConfig
from sft_jax.runs import directory
from sft_jax.runs.directory import RunDirectoryError
from sft_jax.runs.storage import AnyPath

_PREFIX = "seed_"


def config_of(config: ExperimentConfig, seed: int) -> ExperimentConfig:
    """The config of the run with a seed."""
    return dataclasses.replace(config, seed=seed, seeds=())


def runs(workdir: AnyPath, config: ExperimentConfig) -> dict[AnyPath, ExperimentConfig]:
    """The run directories that a config asks for, each with its config.

    Args:
      workdir: with `config.seeds` the folder of them; without, the only one.
      config: of the experiment.
    """
    if not config.seeds:
        return {workdir: config}
    return {workdir / f"{_PREFIX}{seed}": config_of(config, seed) for seed in config.seeds}


def found(workdir: AnyPath) -> dict[int, AnyPath]:
    """The run directories that there are in a folder, by their seeds in ascending order."""
    folders = {
        int(path.name.removeprefix(_PREFIX)): path
        for path in workdir.glob(f"{_PREFIX}*")
        if path.name.removeprefix(_PREFIX).isdecimal() and (path / "config.json").exists()
    }
    return dict(sorted(folders.items()))


def prepare(workdir: AnyPath, config: ExperimentConfig) -> None:
    """Makes the run directories that a config asks for, or checks that it may go on with them.

    Raises:
      RunDirectoryError: if `workdir` holds a run without seeds and the config has some, or the
        other way round; if a run of another seed there has another config; or as
        `directory.prepare` says of any run.
    """
    if (workdir / "config.json").exists():
        _check_kind(workdir, config)
    if config.seeds:
        others = [path for seed, path in found(workdir).items() if seed not in config.seeds]
        check_equal(config, others)
    for folder, of_run in runs(workdir, config).items():
        directory.prepare(folder, of_run)
    if config.seeds:
        directory.prepare(workdir, config)


def check_equal(config: ExperimentConfig, folders: list[AnyPath]) -> None:
    """Checks that runs have a config's settings, but for the seed and what may change.

    Raises:
      RunDirectoryError: naming a run that has not, and what differs.
    """
    for folder in folders:
        made_by = directory.read_config(folder)
        if changed := directory.differences(made_by, config_of(config, made_by.seed)):
            raise RunDirectoryError(
                f"{folder} was made by another config, and the seeds of a folder must differ in"
                " nothing else. Move it elsewhere, give another --workdir, or undo these"
                " changes:\n  " + "\n  ".join(changed)
            )


def _check_kind(workdir: AnyPath, config: ExperimentConfig) -> None:
    before = directory.read_config(workdir).seeds
    if config.seeds and not before:
        raise RunDirectoryError(
            f"workdir {workdir} holds a run without seeds, and seeds={config.seeds} need a folder"
            " of their own: give another --workdir, or leave --config.seeds out"
        )
    if before and not config.seeds:
        raise RunDirectoryError(
            f"workdir {workdir} holds the runs of seeds={tuple(found(workdir))}, and a run"
            " without seeds needs a folder of its own: give another --workdir, or --config.seeds"
        )
