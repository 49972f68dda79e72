"""The checkpoints in a run directory, complete and damaged ones."""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from sft_jax.runs import integrity, storage

_logger = logging.getLogger(__name__)

KINDS = ("latest", "best", "stopped")
"""The kinds of checkpoints; see `sft_jax.runs.checkpoint.Checkpoints`."""

WRITTEN_ON_COMMIT = ("_CHECKPOINT_METADATA", "commit_success.txt")
"""Files that Orbax writes when it commits a step. No restored data comes from them."""

_REMOVAL_SECONDS = 0.2
_MOST_SHOWN = 3


class NoCheckpointError(ValueError):
    """Error if there is no checkpoint of the requested kind or step."""


class DamagedCheckpointError(ValueError):
    """Error if all requested checkpoints are damaged."""


class Place(NamedTuple):
    """Kind and step of a checkpoint."""

    kind: str
    step: int

    def __str__(self) -> str:
        return f"{self.kind}/{self.step}"


class _Outcome(enum.IntEnum):
    """Outcome of a search, which the first process broadcasts."""

    FOUND = 0
    NONE = 1
    DAMAGED = 2


class Shelf:
    """The checkpoints of one run, whose files are compared with their sha256 before use.

    If no checkpoint of the run has a sha256, as in runs of old versions, they are used unchecked,
    with a warning. With several processes the first reads the files and decides.
    """

    def __init__(
        self,
        folder: epath.Path,
        damaged: epath.Path,
        list_steps: Mapping[str, Callable[[], Sequence[int]]],
        reload: Callable[[], None],
        *,
        changing: bool,
    ) -> None:
        """Stores the arguments without reading any file.

        Args:
          folder: Folder with a subfolder for each kind.
          damaged: Folder for checkpoints that are moved out of the way.
          list_steps: Functions that list the committed steps of each kind.
          reload: Function that makes `list_steps` read the folders again.
          changing: Whether another process may be training, and thus saving and removing
            checkpoints.
        """
        self._folder, self._damaged = folder, damaged
        self._list_steps, self._reload = list_steps, reload
        self._changing = changing
        self._problems: dict[Place, list[str]] = {}

    def steps(self, kind: str) -> list[int]:
        """Lists the steps of a kind in ascending order."""
        return sorted(self._list_steps[kind]())

    def path(self, place: Place) -> epath.Path:
        """Returns the folder of a checkpoint, which need not exist."""
        return self._folder / place.kind / str(place.step)

    def find(self, which: str) -> Place:
        """Finds the checkpoint to restore, the same in every process.

        Args:
          which: Name of the checkpoint: latest, best, or a step.

        Raises:
          NoCheckpointError: If there is no such checkpoint; the message names the existing ones.
          DamagedCheckpointError: If all such checkpoints are damaged; the message lists the
            problems of each.
        """
        if jax.process_count() == 1:
            return self._find(which)
        error: ValueError | None = None
        message = (_Outcome.NONE, 0, 0)
        if jax.process_index() == 0:
            try:
                place = self._find(which)
                message = (_Outcome.FOUND, KINDS.index(place.kind), place.step)
            except NoCheckpointError as raised:
                error = raised
            except DamagedCheckpointError as raised:
                error, message = raised, (_Outcome.DAMAGED, 0, 0)
        sent = multihost_utils.broadcast_one_to_all(np.asarray(message, np.int32))
        outcome, kind, step = map(int, sent)
        if outcome == _Outcome.FOUND:
            return Place(KINDS[kind], step)
        error_type = NoCheckpointError if outcome == _Outcome.NONE else DamagedCheckpointError
        raise error or error_type(f"no checkpoint {which!r}: see the output of process 0")

    def candidates(self, which: str) -> list[Place]:
        """Lists the checkpoints that match a request, in order of preference."""
        steps = {kind: self.steps(kind) for kind in KINDS}
        if which == "latest":
            order = sorted({step for some in steps.values() for step in some}, reverse=True)
        elif which == "best":
            order = steps["best"][::-1]
        else:
            order = [int(which)] if which.isdecimal() else []
        kinds = ("best", "latest") if which == "best" else KINDS
        return [Place(kind, step) for step in order for kind in kinds if step in steps[kind]]

    def is_signed(self) -> bool:
        """Returns True if any checkpoint of the run has a sha256; old versions wrote none."""
        return any(integrity.is_signed(self.path(place)) for place in self.candidates("latest"))

    def sign(self) -> None:
        """Writes the sha256 of every checkpoint of a run by an old version."""
        if jax.process_index() == 0 and not self.is_signed():
            for place in self.candidates("latest"):
                integrity.sign(self.path(place), WRITTEN_ON_COMMIT)

    def set_damaged_aside(self) -> None:
        """Moves a damaged best, and damaged checkpoints that `find` skipped, out of the way."""
        if jax.process_index() == 0:
            for place in (Place("best", step) for step in self.steps("best")):
                if self._check(place):
                    self._warn(place, "training goes on without it")
            for place in [place for place, problems in self._problems.items() if problems]:
                number, target = 1, self._damaged / f"{place.kind}-{place.step}"
                while target.exists():
                    number += 1
                    target = self._damaged / f"{place.kind}-{place.step}-{number}"
                storage.move(self.path(place), target)
                self.forget(place)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints moved")
        self._reload()

    def forget(self, place: Place) -> None:
        """Clears the cached state of a checkpoint that is moved or about to be written."""
        self._problems.pop(place, None)

    def look_again(self) -> None:
        """Clears all cached state after another process has changed the folders."""
        self._problems.clear()
        self._reload()

    def _find(self, which: str) -> Place:
        """Finds the first undamaged candidate."""
        candidates = self.candidates(which)
        if self._changing and candidates and self._check(candidates[0]):
            # A training process may be removing the checkpoint.
            time.sleep(_REMOVAL_SECONDS)
            self.look_again()
            candidates = self.candidates(which)
        if not candidates:
            latest = sorted({*self.steps("latest"), *self.steps("stopped")})
            raise NoCheckpointError(
                f"no checkpoint {which!r} in {self._folder}; there are"
                f" latest {latest} and best {self.steps('best')}"
            )
        for number, place in enumerate(candidates):
            if not self._check(place):
                for passed in candidates[:number]:
                    self._warn(passed, f"taking {place} in its place")
                return place
        raise DamagedCheckpointError(
            f"no checkpoint {which!r} in {self._folder} is whole:\n  "
            + "\n  ".join(f"{place}: {self._describe(place)}" for place in candidates)
        )

    def _check(self, place: Place) -> list[str]:
        """Returns the problems of the files of a checkpoint; each file is read only once."""
        if place not in self._problems:
            path = self.path(place)
            if self.is_signed():
                self._problems[place] = integrity.problems(path)
            else:
                self._problems[place] = []
                _logger.warning("checkpoint %s has no %s to check it by", path, integrity.MANIFEST)
        return self._problems[place]

    def _warn(self, place: Place, consequence: str) -> None:
        path, problems = self.path(place), self._describe(place)
        _logger.warning("checkpoint %s is damaged: %s; %s", path, problems, consequence)

    def _describe(self, place: Place) -> str:
        problems = self._problems[place]
        more = len(problems) - _MOST_SHOWN
        return ", ".join([*problems[:_MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])])
