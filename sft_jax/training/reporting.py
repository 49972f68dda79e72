"""What a run tells: a progress bar, JSON lines and TensorBoard events."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

import rich.progress
from rich.console import Console
from tensorboardX import SummaryWriter


class Reporter:
    """Reports one run, from the step it starts or goes on at.

    `metrics.jsonl` has one JSON object a line, with `step` and scalars by name; the same
    scalars are in `tensorboard/`. What an earlier start wrote of steps after the first one
    here is dropped, so that each step is reported once.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int, total_steps: int) -> None:
        """Starts reporting.

        Args:
          workdir: the run directory.
          first_step: steps taken before.
          total_steps: steps of the whole run.
        """
        path = workdir / "metrics.jsonl"
        _drop_after(path, first_step)
        self._lines = path.open("a")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("ETA"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[note]}"),
            console=Console(soft_wrap=True),
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
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        """Hands everything written so far to the operating system."""
        self._lines.flush()
        self._events.flush()

    def note(self, text: str) -> None:
        """Shows a few words beside the bar."""
        self._progress.update(self._task, note=text)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Ends the bar and closes the files."""
        self._progress.stop()
        self._events.close()
        self._lines.close()


def _drop_after(path: pathlib.Path, step: int) -> None:
    """Keeps the lines up to `step`; a last line cut short by a kill goes too."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= step]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(kept))
    partial.replace(path)
