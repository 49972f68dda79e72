"""Runs train.py, and keeps notes of its activity and its batches.

Nothing else differs from train.py. The file KILLS_ACTIVITY is overwritten. KILLS_BATCHES gets the
ids of each step's examples.
"""

from __future__ import annotations

import json
import os
import pathlib
import runpy
from collections.abc import Callable
from typing import Any
from unittest import mock

_ACTIVITY = pathlib.Path(os.environ["KILLS_ACTIVITY"])
_BATCHES = pathlib.Path(os.environ["KILLS_BATCHES"])


def note(activity: str) -> None:
    """Overwrites the note of the current activity."""
    _ACTIVITY.write_text(activity)


class NotedBatches:
    """Iterator of batches that writes down their examples."""

    def __init__(self, batches: Any) -> None:
        self._batches, self._step = batches, 0
        self._file = _BATCHES.open("a")
        self._file.write("\n")  # The last line may have been cut.

    def get_state(self) -> dict[str, Any]:
        """Returns the position, with the number of the step."""
        return {"inner": self._batches.get_state(), "step": self._step}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position."""
        self._batches.set_state(state["inner"])
        self._step = state["step"]

    def __next__(self) -> tuple[Any, Any]:
        batch, ids = next(self._batches)
        self._step += 1
        self._file.write(json.dumps([self._step, list(ids)]) + "\n")
        self._file.flush()
        if self._step % 31 == 2:
            note("training")
        return batch, ids


def _between(before: str, function: Callable[..., Any], after: str) -> Callable[..., Any]:
    """A function with notes before and after it."""

    def noted(*args: Any, **kwargs: Any) -> Any:
        note(before)
        result = function(*args, **kwargs)
        note(after)
        return result

    return noted


def main() -> None:
    """Runs train.py with the flags of this process."""
    note("starting")
    from sft_jax import experiment
    from sft_jax.data import pipeline
    from sft_jax.evaluation.evaluator import Evaluator

    iterate = pipeline.train_iterator
    opening = _between("preparing data", experiment.open_dataset, "compiling")
    evaluating = _between("evaluating", Evaluator.__call__, "training")
    with (
        mock.patch.object(experiment, "open_dataset", opening),
        mock.patch.object(Evaluator, "__call__", evaluating),
        mock.patch.object(
            pipeline, "train_iterator", lambda *args, **kw: NotedBatches(iterate(*args, **kw))
        ),
    ):
        runpy.run_path("train.py", run_name="__main__")


if __name__ == "__main__":
    main()
