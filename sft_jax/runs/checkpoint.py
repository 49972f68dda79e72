"""Checkpoints: the latest few and the best, kept apart, written by Orbax, checked before use."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from sft_jax.runs import integrity, storage
from sft_jax.training.state import TrainState

_logger = logging.getLogger(__name__)

_KINDS = ("latest", "best", "stopped")
# Orbax writes them as it commits a step. Nothing that is restored comes from them.
_WRITTEN_ON_COMMIT = ("_CHECKPOINT_METADATA", "commit_success.txt")
_NONE, _DAMAGED = -1, -2
_REMOVAL_SECONDS = 0.2
_MOST_REMOVED = 5
"""As many checkpoints may be removed while one of them is read."""

T = TypeVar("T")


class NoCheckpointError(ValueError):
    """There is no checkpoint of the kind or step asked for."""


class DamagedCheckpointError(ValueError):
    """Of the checkpoints asked for, none is as it was saved."""


class SaveError(OSError):
    """A checkpoint could not be saved."""


class Checkpoints:
    """The checkpoints of one run.

    `latest/STEP` are those that training goes on from; the older ones are removed. `best/STEP`
    is the one that did best on the validation examples. `stopped/STEP` is where training was
    told to end between evaluations; it is removed when a later one is saved as `latest`,
    as which it counts wherever one is looked for. Each holds the state of training
    and a JSON description: the position of the data iterator, the config, the dataset's
    labels and statistics, and the validation metrics, None where training was stopped.

    Saving goes on in the background; a checkpoint whose saving was cut short is ignored,
    so there is a whole one to go on from at any time. What goes wrong with saving is raised
    by whichever method is called next, `check` among them.

    Every checkpoint holds the sha256 of its files, which is written before Orbax gives the
    checkpoint its name: there is none without it, but for those of versions that knew no
    sha256. Before anything is restored all files of its checkpoint are compared with it. If one
    differs, a warning says so and the next older checkpoint is taken: of `latest` any older
    one, the best included, which holds the same; of `best` or a step the one of the other
    kind at that step. Where no checkpoint of the run has a sha256, they are used as they are,
    with a warning.

    With several processes all methods are to be called by all of them, in the same order.
    The first process reads the files and decides; the others follow.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        keep_latest: int = 1,
        *,
        read_only: bool = False,
    ) -> None:
        """Opens the checkpoints below `workdir`, of which there may be none yet.

        Args:
          workdir: the run directory, also in a bucket.
          keep_latest: how many of the latest to keep.
          read_only: create nothing, and leave alone what another process may be saving.
        """
        path = storage.as_path(workdir)
        if not storage.in_bucket(path):
            path = epath.Path(os.path.abspath(path))
        self._folder, self._read_only = path / "checkpoints", read_only
        self._saving: dict[str, int] = {}
        self._problems: dict[tuple[str, int], list[str]] = {}
        self._managers = {
            kind: ocp.CheckpointManager(
                self._folder / kind,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=preservation_policy.LatestN(
                        keep_latest if kind == "latest" else 1
                    ),
                    create=not read_only,
                    cleanup_tmp_directories=not read_only,
                    # Latest and best are saved at the same step, with several processes that meet.
                    multiprocessing_options=ocp.options.MultiprocessingOptions(
                        barrier_sync_key_prefix=kind
                    ),
                    async_options=ocp.options.AsyncOptions(
                        # In the background, when all files are there but not yet the step.
                        post_finalization_callback=functools.partial(self._sign_saved, kind)
                    ),
                ),
                item_names=("state", "description"),
            )
            for kind in _KINDS
        }

    def save(self, kind: str, state: TrainState, description: dict[str, Any]) -> None:
        """Saves in the background. A step that is there already is left as it is.

        Args:
          kind: latest, best or stopped.
          state: what is saved, at `state.step`.
          description: JSON values.

        Raises:
          SaveError: if saving failed before.
        """
        step = int(state.step)
        manager = self._managers[kind]
        # All, so that at most the best of the latest itself is unsaved at any time.
        if kind == "best":
            self._finish(kind)
        else:
            self.wait()
        if step in manager.all_steps():
            return
        self._saving[kind] = step
        self._problems.pop((kind, step), None)
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                description=ocp.args.JsonSave(description),
            ),
            force=True,  # Orbax would not save a step before one that is there.
        )

    def steps(self, kind: str) -> list[int]:
        """The steps saved as `latest`, `best` or `stopped`, in ascending order."""
        return sorted(self._managers[kind].all_steps())

    def description(self, which: str) -> dict[str, Any]:
        """The description of a checkpoint; see `restore` for `which` and errors."""

        def read(kind: str, step: int) -> dict[str, Any]:
            args = ocp.args.Composite(description=ocp.args.JsonRestore())
            return self._managers[kind].restore(step, args=args)["description"]

        return self._read(which, read)

    def restore(self, which: str, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restores a checkpoint that is as it was saved.

        Args:
          which: latest, best, or a step.
          like: a state, or its shapes, of the structure and sharding to restore.

        Returns:
          The state and the description saved with it.

        Raises:
          NoCheckpointError: if there is none such, naming those that there are.
          DamagedCheckpointError: if none such is whole, saying what is wrong with each.
        """
        return self._read(which, lambda kind, step: self._restore(kind, step, like))

    def resume(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the latest checkpoint that is as it was saved, to go on training from it.

        Those that are newer, and a best one, are moved to `damaged/` if they are not whole, out
        of the way of those that training will save.

        Args:
          like: as for `restore`.

        Returns:
          The state and the description saved with it; None if there is no checkpoint.

        Raises:
          DamagedCheckpointError: if there are some but none is whole.
        """
        try:
            found = self._find("latest")
        except NoCheckpointError:
            return None
        if jax.process_index() == 0:
            for step in self.steps("best"):
                if self._wrong("best", step):
                    self._warn("best", step, "training goes on without it")
            for kind, step in [place for place, wrong in self._problems.items() if wrong]:
                self._set_aside(kind, step)
        self._meet("damaged checkpoints moved")
        for manager in self._managers.values():
            manager.reload()
        restored = self._restore(*found, like)
        if jax.process_index() == 0 and not self._signed():
            for kind, step in self._candidates("latest"):
                integrity.sign(self._path(kind, step), _WRITTEN_ON_COMMIT)
        return restored

    def check(self) -> None:
        """Raises SaveError if saving has failed since the last call; doesn't wait."""
        for kind in tuple(self._saving):
            if not self._managers[kind].is_saving_in_progress():
                self._finish(kind)

    def wait(self) -> None:
        """Returns when everything saved is on disk.

        Raises:
          SaveError: if something is not.
        """
        self._finish(*_KINDS)
        for step in self.steps("stopped"):
            if step <= max(self.steps("latest"), default=-1):
                self._managers["stopped"].delete(step)

    def close(self) -> None:
        """Waits, as `wait` does, and releases the threads."""
        try:
            self.wait()
        finally:
            for manager in self._managers.values():
                manager.close()

    def _finish(self, *kinds: str) -> None:
        for kind in kinds:
            step = self._saving.get(kind)
            try:
                self._managers[kind].wait_until_finished()
            except Exception as error:
                raise SaveError(
                    f"checkpoint {self._path(kind, step or 0)} was not saved: {error}"
                ) from error
            finally:
                self._saving.pop(kind, None)

    def _sign_saved(self, kind: str) -> None:
        final = self._path(kind, self._saving[kind])
        # In a bucket, which can't rename, Orbax writes to the final place and marks it as whole.
        partial = final.with_name(final.name + ocp.utils.TMP_DIR_SUFFIX)
        integrity.sign(partial if partial.exists() else final, _WRITTEN_ON_COMMIT)

    def _read(self, which: str, read: Callable[[str, int], T]) -> T:
        """Reads a checkpoint; another if training, which goes on meanwhile, has removed it."""
        for _ in range(_MOST_REMOVED):
            kind, step = self._find(which)
            try:
                return read(kind, step)
            except Exception:
                if not self._read_only or jax.process_count() > 1:
                    raise
                if self._path(kind, step).exists():
                    raise
            self._look_again()
        return read(*self._find(which))

    def _look_again(self) -> None:
        self._problems.clear()
        for manager in self._managers.values():
            manager.reload()

    def _restore(self, kind: str, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._managers[kind].restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(shapes),
                description=ocp.args.JsonRestore(),
            ),
        )
        return restored["state"], restored["description"]

    def _find(self, which: str) -> tuple[str, int]:
        """Kind and step of the checkpoint to restore, the same in every process."""
        if jax.process_count() == 1:
            return self._choose(which)
        error: ValueError | None = None
        choice = (_NONE, _NONE)
        if jax.process_index() == 0:
            try:
                kind, step = self._choose(which)
                choice = (_KINDS.index(kind), step)
            except (NoCheckpointError, DamagedCheckpointError) as raised:
                error = raised
                choice = (_NONE if isinstance(raised, NoCheckpointError) else _DAMAGED, _NONE)
        index, step = map(int, multihost_utils.broadcast_one_to_all(np.asarray(choice, np.int32)))
        if index >= 0:
            return _KINDS[index], step
        kind_of_error = NoCheckpointError if index == _NONE else DamagedCheckpointError
        raise error or kind_of_error(f"no checkpoint {which!r}: see what process 0 says")

    def _choose(self, which: str) -> tuple[str, int]:
        """The first candidate that is whole."""
        candidates = self._candidates(which)
        if self._read_only and candidates and self._wrong(*candidates[0]):
            # Training, which goes on meanwhile, may be removing it.
            time.sleep(_REMOVAL_SECONDS)
            self._look_again()
            candidates = self._candidates(which)
        if not candidates:
            latest = sorted({*self.steps("latest"), *self.steps("stopped")})
            raise NoCheckpointError(
                f"no checkpoint {which!r} in {self._folder}; there are"
                f" latest {latest} and best {self.steps('best')}"
            )
        for number, (kind, step) in enumerate(candidates):
            if not self._wrong(kind, step):
                for passed in candidates[:number]:
                    self._warn(*passed, f"taking {kind}/{step} in its place")
                return kind, step
        raise DamagedCheckpointError(
            f"no checkpoint {which!r} in {self._folder} is whole:\n  "
            + "\n  ".join(f"{kind}/{step}: {self._say(kind, step)}" for kind, step in candidates)
        )

    def _candidates(self, which: str) -> list[tuple[str, int]]:
        """Kinds and steps that will do, the most wanted first."""
        steps = {kind: self.steps(kind) for kind in _KINDS}
        if which == "latest":
            wanted = sorted({step for some in steps.values() for step in some}, reverse=True)
        elif which == "best":
            wanted = steps["best"][::-1]
        else:
            wanted = [int(which)] if which.isdecimal() else []
        kinds = ("best", "latest") if which == "best" else _KINDS
        return [(kind, step) for step in wanted for kind in kinds if step in steps[kind]]

    def _wrong(self, kind: str, step: int) -> list[str]:
        """What is wrong with the files of a checkpoint; they are read once."""
        if (kind, step) not in self._problems:
            path = self._path(kind, step)
            signed = self._signed()
            found = integrity.problems(path) if signed else []
            if not signed:
                _logger.warning("checkpoint %s has no %s to check it by", path, integrity.MANIFEST)
            self._problems[kind, step] = found
        return self._problems[kind, step]

    def _signed(self) -> bool:
        """Whether any checkpoint of the run has sha256; in runs of old versions none has."""
        return any(integrity.is_signed(self._path(*place)) for place in self._candidates("latest"))

    def _warn(self, kind: str, step: int, instead: str) -> None:
        path = self._path(kind, step)
        _logger.warning("checkpoint %s is damaged: %s; %s", path, self._say(kind, step), instead)

    def _say(self, kind: str, step: int, most: int = 3) -> str:
        found = self._problems[kind, step]
        more = [f"and {len(found) - most} more"] if len(found) > most else []
        return ", ".join(found[:most] + more)

    def _set_aside(self, kind: str, step: int) -> None:
        folder = self._folder / "damaged"
        number, target = 1, folder / f"{kind}-{step}"
        while target.exists():
            number, target = number + 1, folder / f"{kind}-{step}-{number + 1}"
        storage.move(self._path(kind, step), target)
        del self._problems[kind, step]

    def _path(self, kind: str, step: int) -> epath.Path:
        return self._folder / kind / str(step)

    @staticmethod
    def _meet(name: str) -> None:
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(name)
