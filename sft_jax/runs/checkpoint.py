"""Checkpoints: the latest few and the best, written by Orbax and checked before use."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from sft_jax.runs import integrity, storage
from sft_jax.runs.directory import RunDirectory, RunDirectoryError
from sft_jax.runs.shelf import (
    KINDS,
    WRITTEN_ON_COMMIT,
    DamagedCheckpointError,
    NoCheckpointError,
    Place,
    Shelf,
)

__all__ = ["Checkpoints", "DamagedCheckpointError", "NoCheckpointError", "SaveError", "State"]

_ONE_SAVE = threading.Lock()
"""Lock of threads that train runs side by side: Orbax numbers the saves of the whole process, and
two at a time wait for each other's parts."""

_MOST_REMOVED = 5
"""Number of times that another process may remove the checkpoint that is being read."""


class State(Protocol):
    """Tree of arrays at a step of training."""

    @property
    def step(self) -> Any:
        """Number of steps taken, a scalar."""


T = TypeVar("T")
StateT = TypeVar("StateT", bound=State)


class SaveError(OSError):
    """A checkpoint that could not be saved."""


class Checkpoints:
    """The checkpoints of one run.

    Training resumes from the `latest/STEP` checkpoints; older ones are removed. `best/STEP` has
    the best validation metric. `stopped/STEP` was saved when training was asked to end between
    evaluations. It counts as a `latest` checkpoint, and is deleted once a newer checkpoint has
    been saved.

    Each holds the state of training and a JSON description: the position of the data iterator,
    the config, and the dataset's labels and statistics. The description also has the validation
    metrics, which are None in a `stopped` checkpoint.

    Checkpoints are saved in the background. An incomplete checkpoint is ignored, so training can
    resume from a complete one at any time. The next method call, such as `check`, raises errors
    of saving.

    Every checkpoint holds the sha256 of its files, except checkpoints of old versions. The sha256
    is written before Orbax gives the checkpoint its final name. Before a checkpoint is restored,
    all of its files are compared with the sha256. If a file differs, a warning is logged and
    another checkpoint is used. For `latest` that is the next older one, or the best, which holds
    the same data. For `best` or a step it is a checkpoint of the other kind at that step. If no
    checkpoint of the run has a sha256, they are used unchecked, with a warning.

    With several processes, all of them must call every method, in the same order.
    The first process reads the files and decides; the others follow.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        keep_latest: int = 1,
        *,
        read_only: bool = False,
    ) -> None:
        """Opens the checkpoints of a run, which may have none yet.

        Args:
          workdir: Run directory, local or in a bucket.
          keep_latest: Number of latest checkpoints to keep.
          read_only: Whether to create nothing, and not to touch what another process is saving.
        """
        path = storage.as_path(workdir)
        if not storage.in_bucket(path):
            path = epath.Path(os.path.abspath(path))
        run = RunDirectory(path)
        self._read_only = read_only
        self._saving: dict[str, int] = {}
        self._managers = {
            kind: ocp.CheckpointManager(
                run.checkpoints / kind,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=preservation_policy.LatestN(
                        keep_latest if kind == "latest" else 1
                    ),
                    create=not read_only,
                    cleanup_tmp_directories=not read_only,
                    # Processes synchronise by this prefix: latest and best can share a step.
                    multiprocessing_options=ocp.options.MultiprocessingOptions(
                        barrier_sync_key_prefix=kind
                    ),
                    async_options=ocp.options.AsyncOptions(
                        # Runs in the background, after the files are written and before the step
                        # is committed.
                        post_finalization_callback=functools.partial(self._sign_saved, kind)
                    ),
                ),
                item_names=("state", "description"),
            )
            for kind in KINDS
        }
        self._shelf = Shelf(
            epath.Path(run.checkpoints),
            epath.Path(run.damaged),
            {kind: manager.all_steps for kind, manager in self._managers.items()},
            self._reload,
            changing=read_only,
        )

    def save(self, kind: str, state: State, description: dict[str, Any]) -> None:
        """Saves a checkpoint in the background, unless the step is already saved.

        Outside the main thread the save is complete on return.

        Args:
          kind: Kind of checkpoint: latest, best or stopped.
          state: State to save, at `state.step`.
          description: JSON values.

        Raises:
          SaveError: If an earlier save failed.
        """
        step = int(state.step)
        manager = self._managers[kind]
        # Wait for pending saves, so a crash can lose at most the `best` copy of this step.
        if kind == "best":
            self._finish(kind)
        else:
            self.wait()
        if step in manager.all_steps():
            return
        self._saving[kind] = step
        self._shelf.forget(Place(kind, step))
        with _ONE_SAVE:
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    description=ocp.args.JsonSave(description),
                ),
                force=True,  # Orbax would otherwise skip a step before an existing one.
            )
            if threading.current_thread() is not threading.main_thread():
                self._finish(kind)

    def steps(self, kind: str) -> list[int]:
        """Lists the steps saved as `latest`, `best` or `stopped`, in ascending order."""
        return self._shelf.steps(kind)

    def description(self, which: str) -> dict[str, Any]:
        """Reads the description of a checkpoint; see `restore` for `which` and errors."""

        def read(place: Place) -> dict[str, Any]:
            args = ocp.args.Composite(description=ocp.args.JsonRestore())
            return self._managers[place.kind].restore(place.step, args=args)["description"]

        return self._read(which, read)

    def restore(self, which: str, like: StateT) -> tuple[StateT, dict[str, Any]]:
        """Restores an undamaged checkpoint.

        Args:
          which: Name of the checkpoint: latest, best, or a step.
          like: State, or its shapes, with the structure and sharding to restore.

        Returns:
          The state and the description saved with it.

        Raises:
          NoCheckpointError: If there is no such checkpoint; the message names the existing ones.
          DamagedCheckpointError: If all such checkpoints are damaged; the message lists the
            problems of each.
        """
        return self._read(which, lambda place: self._restore(place, like))

    def restore_part(self, which: str, like: Mapping[str, Any]) -> dict[str, Any]:
        """Restores some fields of the state alone, without reading the others.

        Args:
          which: Name of the checkpoint; see `restore`, also for errors.
          like: Name of each field to its shapes and shardings.

        Raises:
          RunDirectoryError: If a field has other arrays.
        """
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, dict(like))
        args = ocp.args.PyTreeRestore(
            shapes, ocp.checkpoint_utils.construct_restore_args(shapes), partial_restore=True
        )

        def read(place: Place) -> dict[str, Any]:
            folder = self._shelf.path(place) / "state"
            _check_arrays(folder, shapes)
            # Not by the manager, which restores whole states.
            with contextlib.closing(ocp.PyTreeCheckpointer()) as checkpointer:
                return checkpointer.restore(folder, args=args)

        return self._read(which, read)

    def resume(self, like: StateT) -> tuple[StateT, dict[str, Any]] | None:
        """Restores the latest undamaged checkpoint, to resume training from it.

        Newer damaged checkpoints, and a damaged best checkpoint, are moved to `damaged/`, out of
        the way of the checkpoints that training will save.

        Args:
          like: State, or its shapes, as in `restore`.

        Returns:
          The state and the description saved with it; None if there is no checkpoint.

        Raises:
          DamagedCheckpointError: If there are checkpoints but all are damaged.
        """
        try:
            place = self._shelf.find("latest")
        except NoCheckpointError:
            return None
        self._shelf.set_damaged_aside()
        restored = self._restore(place, like)
        self._shelf.sign()
        return restored

    def check(self) -> None:
        """Raises SaveError if a save has failed since the last call; does not wait."""
        for kind in tuple(self._saving):
            if not self._managers[kind].is_saving_in_progress():
                self._finish(kind)

    def wait(self) -> None:
        """Waits until all checkpoints are on disk.

        Raises:
          SaveError: If a save failed.
        """
        self._finish(*KINDS)
        for step in self.steps("stopped"):
            if step <= max(self.steps("latest"), default=-1):
                self._managers["stopped"].delete(step)

    def close(self) -> None:
        """Waits like `wait`, and releases the threads."""
        try:
            self.wait()
        finally:
            for manager in self._managers.values():
                manager.close()

    def _finish(self, *kinds: str) -> None:
        for kind in kinds:
            place = Place(kind, self._saving.get(kind, 0))
            try:
                self._managers[kind].wait_until_finished()
            except Exception as error:
                self._saving.pop(kind, None)
                path = self._shelf.path(place)
                raise SaveError(f"checkpoint {path} was not saved: {error}") from error
            # Not after Ctrl-C: the save goes on in the background and looks up its step.
            self._saving.pop(kind, None)

    def _sign_saved(self, kind: str) -> None:
        final = self._shelf.path(Place(kind, self._saving[kind]))
        # Buckets can't rename: there Orbax writes to the final path and marks it as complete.
        partial = final.with_name(final.name + ocp.utils.TMP_DIR_SUFFIX)
        integrity.sign(partial if partial.exists() else final, WRITTEN_ON_COMMIT)

    def _reload(self) -> None:
        for manager in self._managers.values():
            manager.reload()

    def _read(self, which: str, read: Callable[[Place], T]) -> T:
        """Reads a checkpoint, or another one if a training process has removed it meanwhile."""
        for _ in range(_MOST_REMOVED):
            place = self._shelf.find(which)
            try:
                return read(place)
            except Exception:
                if not self._read_only or jax.process_count() > 1:
                    raise
                if self._shelf.path(place).exists():
                    raise
            self._shelf.look_again()
        return read(self._shelf.find(which))

    def _restore(self, place: Place, like: StateT) -> tuple[StateT, dict[str, Any]]:
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._managers[place.kind].restore(
            place.step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(shapes),
                description=ocp.args.JsonRestore(),
            ),
        )
        return restored["state"], restored["description"]


def _check_arrays(folder: epath.Path, like: Mapping[str, Any]) -> None:
    """Checks that the saved fields have the arrays that are expected, and no others."""
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        saved = handler.metadata(folder).tree
    found, expected = (
        {
            jax.tree_util.keystr(path, simple=True, separator="."): list(array.shape)
            for path, array in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in ({field: saved.get(field) for field in like}, like)
    )
    wrong = [
        f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise RunDirectoryError(
            f"checkpoint {folder.parent} does not fit the config of the run:"
            f" {'; '.join(wrong[:3])}{more}"
        )
