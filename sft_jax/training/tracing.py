"""What a device does in some steps of training, for TensorBoard's profiler or Perfetto."""

from __future__ import annotations

from typing import Any

import jax

from sft_jax.config import SystemConfig
from sft_jax.runs import storage


class Trace:
    """Records the steps that a config names, in `trace/` of the run directory.

    One process writes what its own devices do, each into a file of its own; on the way to a
    bucket it is in a temporary folder until recording ends.
    """

    def __init__(self, config: SystemConfig, workdir: storage.AnyPath) -> None:
        """Nothing is recorded yet.

        Args:
          config: whose `trace_from` and `trace_steps` say which steps.
          workdir: the run directory.
        """
        self._from, self._to = config.trace_from, config.trace_from + config.trace_steps
        self._folder = workdir / "trace"
        self._running: storage.Staged | None = None

    def before(self, step: int) -> None:
        """Starts recording if the step, counted from 1, is the first to be recorded."""
        if step == self._from and self._from < self._to:
            self._running = storage.Staged(self._folder)
            jax.profiler.start_trace(self._running.folder)

    def after(self, step: int, results: Any) -> None:
        """Ends recording if it was the last, when its results are there."""
        if self._running and step + 1 == self._to:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends recording, if it has not ended."""
        if self._running:
            jax.profiler.stop_trace()
            self._running.close()
            self._running = None
