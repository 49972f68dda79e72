"""Checkpoints: the latest few and the best one, kept apart, written by Orbax."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from sft_jax.training.state import TrainState


class NoCheckpointError(ValueError):
    """There is no checkpoint of the kind or step asked for."""


class Checkpoints:
    """The checkpoints of one run.

    `latest/STEP` are those that training goes on from; the older ones are removed. `best/STEP`
    is the one that did best on the validation examples. Each holds the state of training
    and a JSON description: the position of the data iterator, the config, the dataset's
    labels and statistics, and the validation metrics.

    Saving goes on in the background; a checkpoint whose saving was cut short is ignored,
    so there is a whole one to go on from at any time.
    """

    def __init__(self, workdir: pathlib.Path, keep_latest: int = 1) -> None:
        """Opens the checkpoints below `workdir`, of which there may be none yet.

        Args:
          workdir: the run directory.
          keep_latest: how many of the latest to keep.
        """
        self._folder = workdir.absolute() / "checkpoints"
        self._managers = {
            kind: ocp.CheckpointManager(
                self._folder / kind,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=preservation_policy.LatestN(keep)
                ),
                item_names=("state", "description"),
            )
            for kind, keep in (("latest", keep_latest), ("best", 1))
        }

    def save(self, kind: str, state: TrainState, description: dict[str, Any]) -> None:
        """Saves in the background. A step that is there already is left as it is.

        Args:
          kind: latest or best.
          state: what is saved, at `state.step`.
          description: JSON values.
        """
        step = int(state.step)
        manager = self._managers[kind]
        if step in manager.all_steps():
            return
        if kind == "latest":
            # So that at most the best of the latest itself is unsaved at any time.
            self._managers["best"].wait_until_finished()
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                description=ocp.args.JsonSave(description),
            ),
        )

    def steps(self, kind: str) -> list[int]:
        """The steps saved as `latest` or as `best`, in ascending order."""
        return sorted(self._managers[kind].all_steps())

    def description(self, which: str) -> dict[str, Any]:
        """The description of a checkpoint; see `restore` for `which` and errors."""
        manager, step = self._find(which)
        args = ocp.args.Composite(description=ocp.args.JsonRestore())
        return manager.restore(step, args=args)["description"]

    def restore(self, which: str, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restores a checkpoint.

        Args:
          which: latest, best, or a step.
          like: a state, or its shapes, of the structure and sharding to restore.

        Returns:
          The state and the description saved with it.

        Raises:
          NoCheckpointError: if there is none such, naming those that there are.
        """
        manager, step = self._find(which)
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(shapes),
                description=ocp.args.JsonRestore(),
            ),
        )
        return restored["state"], restored["description"]

    def wait(self) -> None:
        """Returns when everything saved is on disk; raises what went wrong with it."""
        for manager in self._managers.values():
            manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and releases the threads."""
        for manager in self._managers.values():
            manager.close()

    def _find(self, which: str) -> tuple[ocp.CheckpointManager, int]:
        available = {kind: self.steps(kind) for kind in self._managers}
        for kind, steps in available.items():
            if which == kind and steps:
                return self._managers[kind], steps[-1]
            if which.isdecimal() and int(which) in steps:
                return self._managers[kind], int(which)
        raise NoCheckpointError(
            f"no checkpoint {which!r} in {self._folder}; there are"
            f" latest {available['latest']} and best {available['best']}"
        )
