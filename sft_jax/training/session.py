"""One start of a training run: its initial state, evaluations, checkpoints and reports."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from sft_jax import config_io
from sft_jax.config import ExperimentConfig
from sft_jax.ops.losses import SCORE_NAMES
from sft_jax.parallel import preemption
from sft_jax.parallel.preemption import PreemptedError
from sft_jax.runs.checkpoint import Checkpoints
from sft_jax.runs.directory import RunDirectory
from sft_jax.selection import Selection, find_metric
from sft_jax.training import optim
from sft_jax.training.ahead import BatchIterator
from sft_jax.training.assembly import Assembled
from sft_jax.training.progress import Progress
from sft_jax.training.reporting import Reporter, Silent
from sft_jax.training.state import TrainState

_logger = logging.getLogger(__name__)

_MUCH = 0.05
"""Share of the time spent waiting for input from which on a line tells it."""

Validate = Callable[[Any], Mapping[str, float]]
"""Function from parameters to metrics by name, including `loss`."""


class Session:
    """One start of a run.

    Attributes:
      state: Initial state of this start: new, or from the latest checkpoint.
      first: First step to take, counted from 1.
      unevaluated: True if the evaluation of the previous step was interrupted.
      checkpoints: Checkpoints of the run.
      reporter: Reports of the run, silent in all processes except the first.
      progress: Measurements since the last evaluation.
      best: Best evaluation so far.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        assembled: Assembled,
        batches: BatchIterator,
        validate: Validate,
        *,
        run: RunDirectory,
        description: Mapping[str, Any],
    ) -> None:
        """Restores the latest checkpoint, if there is one.

        Args:
          config: Experiment.
          assembled: Model and optimiser of the config.
          batches: Training batches, which are moved to the position of the checkpoint.
          validate: Function that evaluates parameters.
          run: Run directory.
          description: Values to save with each checkpoint, in addition to config and metrics.

        Raises:
          DamagedCheckpointError: If there are checkpoints but all are damaged.
        """
        self._config, self._plan, self._validate = config, assembled.plan, validate
        self._schedule = assembled.schedule
        self._batches, self._run, self._description = batches, run, description
        self.checkpoints = Checkpoints(run.path, config.train.keep_latest)
        selection = find_metric(config.model.task, config.train.best_metric)
        resumed = self.checkpoints.resume(assembled.like)
        self.best = Best.read(self.checkpoints, selection)
        self.state, saved = resumed or (assembled.new_state(config.seed), {"metrics": {}})
        self.first = int(self.state.step) + 1
        self.unevaluated = saved["metrics"] is None and self.first - 1 in self._plan.evaluate_at
        if resumed:
            self._batches.set_state(saved["iterator"])
            if saved["metrics"] is not None:
                # If the latest checkpoint was damaged, the state may come from the best one.
                self.checkpoints.save("latest", self.state, saved)
                # The latest is saved before the best: a kill may have left the best unsaved.
                if self.best.update(self.first - 1, saved["metrics"]):
                    self.checkpoints.save("best", self.state, saved)
        self.progress = Progress(self.first - 1, self._plan.total_steps)
        self.reporter: Reporter = Silent()
        if jax.process_index() == 0:
            self.reporter = Reporter(
                run, self.first - 1, self._plan.total_steps, evaluated=not self.unevaluated
            )
        if self.first > self._plan.total_steps and not self.unevaluated:
            self.reporter.say(f"all {self._plan.total_steps} steps were taken before")
        elif self.first > 1:
            self.reporter.say(f"going on from step {self.first - 1} of {self._plan.total_steps}")

    def catch_up(self) -> TrainState:
        """Evaluates the step before `first`, whose evaluation was interrupted.

        Raises:
          PreemptedError: If the process is asked to end meanwhile.
        """
        with preemption.watch() as notice:
            state = self.evaluate(self.first - 1, self.state)
            if notice.reached():
                raise self.stop(self.first - 1, state)
        return state

    def evaluate(self, step: int, state: TrainState) -> TrainState:
        """Evaluates a step, and saves and reports it.

        Args:
          step: Number of the step.
          state: State after the step.

        Returns:
          The state, with the schedule updated by the validation loss.

        Raises:
          PreemptedError: If the process is asked to end meanwhile; the step is saved first.
        """
        waited = self.progress.share()
        rate = optim.learning_rate(self._schedule, step - 1, state.plateau)
        try:
            values = dict(self._validate(state.eval_params))
        except preemption.GivenUpError:
            raise self.stop(step, state) from None
        plateau = optim.observe(self._config.optim, state.plateau, values["loss"])
        state = state.replace(plateau=plateau)
        saved = self._describe(values)
        # Reports precede the checkpoint, since a later start reports no steps before it.
        self.reporter.scalars(step, {f"valid/{name}": value for name, value in values.items()})
        self.reporter.flush()
        self.checkpoints.save("latest", state, saved)
        improved = self.best.update(step, values)
        if improved:
            self.checkpoints.save("best", state, saved)
        self.reporter.say(
            self._line(step, values, rate)
            + (f"  {waited:.0%} waiting for input" if waited > _MUCH else "")
            + ("  (best so far)" if improved else "")
        )
        self.progress.restart()
        return state

    def _line(self, step: int, values: Mapping[str, float], rate: float) -> str:
        """Describes an evaluation, and the steps since the last one, in a line."""
        parts = [f"epoch {float(step / self._plan.steps_per_epoch):5.1f}  step {step:6d}"]
        if means := self.progress.means():
            names = ("loss", SCORE_NAMES[self._config.model.task])
            parts.append(_listed("train", dict(zip(names, means, strict=True))))
        parts += [_listed("valid", values), f"lr {rate:.2g}", self.progress.times(step)]
        return "  ".join(parts)

    def steps(self) -> Iterator[int]:
        """Yields the steps to take until the last one, or until patience ends training.

        The evaluation of a step must precede the request for the next one.
        """
        patience, total = self._config.train.patience, self._plan.total_steps
        for step in range(self.first, total + 1):
            if self._plan.is_exhausted(step - 1, self.best.step, patience):
                since = "" if self.best.step is None else f" since step {self.best.step}"
                self.reporter.say(
                    f"ending early at step {step - 1} of {total}: valid"
                    f" {self.best.selection.name} has not improved{since},"
                    f" train.patience={patience}"
                )
                return
            yield step

    def stop(self, step: int, state: TrainState) -> PreemptedError:
        """Saves a step after the process was asked to end, and makes the error to raise."""
        _logger.warning("told to end by SIGTERM: saving step %d in %s", step, self._run)
        self.reporter.flush()  # Reports precede the checkpoint, as in `evaluate`.
        self.checkpoints.save("stopped", state, self._describe(None))
        self.checkpoints.wait()
        return PreemptedError(
            f"stopped at step {step} of {self._plan.total_steps}, which is saved in {self._run}:"
            " run the same command again to go on from there"
        )

    def close(self) -> None:
        """Ends reporting, and waits for pending checkpoints."""
        try:
            self.reporter.close()
        finally:
            self.checkpoints.close()

    def _describe(self, metrics: Mapping[str, float] | None) -> dict[str, Any]:
        return {
            **self._description,
            "config": config_io.to_json(self._config),
            "metrics": metrics,
            "iterator": self._batches.get_state(),
        }


def _listed(prefix: str, values: Mapping[str, float]) -> str:
    return " ".join([prefix, *(f"{name} {value:.4g}" for name, value in values.items())])


@dataclasses.dataclass
class Best:
    """Best validation metric so far; NaN is never better than any value.

    Attributes:
      selection: Metric.
      step: Step of the best value; None if no evaluation gave a finite value.
      value: Best value of the metric.
    """

    selection: Selection
    step: int | None = None
    value: float | None = None

    @classmethod
    def read(cls, checkpoints: Checkpoints, selection: Selection) -> Best:
        """Reads the best value from the best checkpoint, if there is one."""
        best = cls(selection)
        if checkpoints.steps("best"):
            best.step = checkpoints.steps("best")[-1]
            best.value = checkpoints.description("best")["metrics"][selection.name]
        return best

    def update(self, step: int, values: Mapping[str, float]) -> bool:
        """Records the metrics of a step; returns True if it is the best so far."""
        new = values[self.selection.name]
        sign = -1 if self.selection.better == "lower" else 1
        if not math.isfinite(new) or (self.value is not None and sign * new <= sign * self.value):
            return False
        self.step, self.value = step, new
        return True
