"""Reports of a run: a progress bar, JSON lines and TensorBoard events."""

from __future__ import annotations

import contextvars
import json
from collections.abc import Mapping
from typing import Any

import rich.progress
from rich.console import Console
from tensorboardX import SummaryWriter

from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory
from sft_jax.runs.storage import AnyPath

shows_bar = contextvars.ContextVar("shows_bar", default=True)
"""Whether the reports of this thread show a progress bar."""


class Reporter:
    """Reports one run, from the step at which it starts or resumes.

    `metrics.jsonl` has one JSON object per line, with `step` and scalars by name; `tensorboard/`
    has the same scalars. Reports of an earlier start about later steps are dropped, so that each
    step is reported once.

    For a run directory in a bucket both are written to a temporary folder. They are copied to the
    bucket at each `flush` and at the end.
    """

    def __init__(
        self, run: RunDirectory, first_step: int, total_steps: int, *, evaluated: bool = True
    ) -> None:
        """Starts reporting.

        Args:
          run: Run directory.
          first_step: Number of steps already taken.
          total_steps: Number of steps in the whole run.
          evaluated: Whether step `first_step` has been evaluated. If False, this start evaluates
            it, and earlier reports of its evaluation are dropped as well.
        """
        self._staged = storage.Staged(run.path)
        local = RunDirectory(self._staged.folder)
        kept = _up_to(run.metrics_file, first_step, evaluated)
        storage.write_whole(local.metrics_file, "".join(json.dumps(line) + "\n" for line in kept))
        self._lines = local.metrics_file.open("a")
        self._events = SummaryWriter(str(local.events), purge_step=first_step + evaluated)
        if not evaluated:  # TensorBoard can drop only whole steps.
            for line in kept:
                if line["step"] == first_step:
                    self._add_events(line)
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("ETA"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[note]}"),
            console=Console(soft_wrap=True),
            disable=not shows_bar.get(),
        )
        self._task = self._progress.add_task(
            "training", completed=first_step, total=total_steps, note=""
        )
        self._progress.start()

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        self._progress.update(self._task, completed=step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars of a step."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._add_events({"step": step, **values})

    def _add_events(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name != "step":
                self._events.add_scalar(name, value, line["step"])

    def flush(self) -> None:
        """Flushes all reports so far to the operating system, or to the bucket."""
        self._lines.flush()
        self._events.flush()
        self._staged.upload()

    def note(self, text: str) -> None:
        """Shows a short text beside the bar."""
        self._progress.update(self._task, note=text)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Ends the bar and closes the files."""
        self._progress.stop()
        self._events.close()
        self._lines.close()
        self._staged.close()


class Silent(Reporter):
    """Reports nothing, in all processes except the first."""

    def __init__(self) -> None:
        pass

    def advance(self, step: int) -> None:
        """Does nothing."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def note(self, text: str) -> None:
        """Does nothing."""

    def say(self, text: str) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def _up_to(path: AnyPath, step: int, evaluated: bool) -> list[dict[str, Any]]:
    """Reads the lines up to `step`, except a line that was cut short by a kill."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    kept = [json.loads(line) for line in lines if line.endswith("}\n")]
    kept = [line for line in kept if line["step"] <= step]
    if not evaluated:
        kept = [
            line
            for line in kept
            if line["step"] < step or not any(name.startswith("valid/") for name in line)
        ]
    return kept
