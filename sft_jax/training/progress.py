"""Progress of one start of training: mean metrics, time, and the time that remains."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator

import numpy as np

from sft_jax.structs import BatchAndIds
from sft_jax.training.ahead import BatchIterator
from sft_jax.training.step import StepMetrics


class Progress:
    """Measures training between two evaluations. Compilation does not count as time."""

    def __init__(self, first_step: int, total_steps: int) -> None:
        """Starts the clock.

        Args:
          first_step: Number of steps already taken.
          total_steps: Number of steps in the whole run.
        """
        self._first, self._total, self._begin = first_step, total_steps, time.perf_counter()
        self.restart()

    def restart(self) -> None:
        """Starts a new measurement, after an evaluation."""
        self._start, self._waited = time.perf_counter(), 0.0
        self._values: list[tuple[float, float]] = []
        self._last: StepMetrics | None = None

    def wait_for(self, batches: BatchIterator) -> BatchAndIds:
        """Takes the next batch, and counts the time as waiting for input."""
        begin = time.perf_counter()
        taken = next(batches)
        self._waited += time.perf_counter() - begin
        return taken

    @contextlib.contextmanager
    def compiling(self, compiles: bool, say: Callable[[str], None]) -> Iterator[None]:
        """Reports the compilation inside the context, and leaves out its time.

        Args:
          compiles: Whether anything is compiled inside the context.
          say: Function that prints a line.
        """
        if not compiles:
            yield
            return
        say("compiling...")
        begin = time.perf_counter()
        yield
        seconds = time.perf_counter() - begin
        self._start += seconds
        self._begin += seconds
        say(f"compiled in {seconds:.1f} s")

    def add(self, metrics: StepMetrics) -> None:
        """Adds a step, which may not have been computed yet; all earlier ones have been."""
        self._settle()
        self._last = metrics

    def share(self) -> float:
        """Returns the share of the time spent waiting for input, from 0 to 1."""
        return self._waited / (time.perf_counter() - self._start)

    def means(self) -> tuple[float, float] | None:
        """Computes the mean loss and score of the steps; None without any."""
        self._settle()
        if not self._values:
            return None
        loss, score = np.mean(self._values, axis=0)
        return float(loss), float(score)

    def times(self, step: int) -> str:
        """Describes the seconds since the last evaluation, and the time that remains.

        Args:
          step: Number of the last step.
        """
        now = time.perf_counter()
        text = f"{now - self._start:.1f} s"
        done, left = step - self._first, self._total - step
        if done and left:
            seconds = round((now - self._begin) / done * left)
            text += f"  ETA {datetime.timedelta(seconds=seconds)}"
        return text

    def _settle(self) -> None:
        if self._last is not None:
            self._values.append((float(self._last.loss), float(self._last.score)))
            self._last = None
