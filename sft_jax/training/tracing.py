"""Profiles of the devices during training steps, for TensorBoard's profiler or Perfetto."""

from __future__ import annotations

from typing import Any

import jax

from sft_jax.config import SystemConfig
from sft_jax.runs import storage
from sft_jax.runs.directory import RunDirectory


class Trace:
    """Records the steps that a config selects, in `trace/` of the run directory.

    Each process records its own devices in a separate file. For a bucket, the file stays in a
    temporary folder until recording ends.
    """

    def __init__(self, config: SystemConfig, run: RunDirectory) -> None:
        """Prepares the trace without starting to record.

        Args:
          config: Section with the steps to record, `trace_from` and `trace_steps`.
          run: Run directory.
        """
        self._from, self._to = config.trace_from, config.trace_from + config.trace_steps
        self._folder = run.trace
        self._running: storage.Staged | None = None

    def before(self, step: int) -> None:
        """Starts recording if the step, counted from 1, is the first to be recorded."""
        if step == self._from and self._from < self._to:
            self._running = storage.Staged(self._folder)
            jax.profiler.start_trace(self._running.folder)

    def after(self, step: int, results: Any) -> None:
        """Ends recording after the last step, once its results are computed."""
        if self._running and step + 1 == self._to:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends recording if it is still active."""
        if self._running:
            jax.profiler.stop_trace()
            self._running.close()
            self._running = None
