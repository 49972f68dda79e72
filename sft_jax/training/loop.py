"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sft_jax.config import ExperimentConfig
from sft_jax.ops.losses import SCORE_NAMES
from sft_jax.parallel import preemption, sharding
from sft_jax.runs.directory import RunDirectory
from sft_jax.training import optim
from sft_jax.training.ahead import BatchIterator, placed_ahead
from sft_jax.training.assembly import Assembled
from sft_jax.training.reporting import Reporter
from sft_jax.training.session import Session, Validate
from sft_jax.training.state import TrainState
from sft_jax.training.step import StepMetrics
from sft_jax.training.tracing import Trace


class NonFiniteError(ArithmeticError):
    """Error for a loss or gradient that is NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of a run.

    Attributes:
      state: State after the last step.
      best_step: Step of the best checkpoint; None if no evaluation gave a finite metric.
      best_value: Validation metric of the best checkpoint.
      train_compiles: Number of times a training step was compiled in this process.
      preempted: True if the process was asked to end, but too late to stop this run.
    """

    state: TrainState
    best_step: int | None
    best_value: float | None
    train_compiles: int
    preempted: bool


def fit(
    config: ExperimentConfig,
    assembled: Assembled,
    batches: BatchIterator,
    validate: Validate,
    *,
    compile_validation: Callable[[Any], None],
    run: RunDirectory,
    description: Mapping[str, Any],
    mesh: Mesh,
    check_owner: Callable[[], None] = lambda: None,
) -> Result:
    """Trains a model, from the latest checkpoint of its run directory if there is one.

    Args:
      config: Experiment.
      assembled: Model and optimiser of the config, for these devices. Runs that differ only in
        their seed may share it, and with it the compiled programs.
      batches: This process's share of the training batches.
      validate: Function that evaluates parameters.
      compile_validation: Function that compiles `validate` for given parameters.
      run: Run directory from `RunDirectory.open`.
      description: Values to save with each checkpoint, in addition to config and metrics.
      mesh: Devices.
      check_owner: Function called at each step. An error that it raises ends training, and
        nothing is saved.

    Raises:
      NonFiniteError: At the first loss or gradient that is not finite; the saved state before
        that step is not overwritten.
      PreemptedError: If the process was asked to end; the current step is saved first. An
        interrupted evaluation is repeated when the run resumes.
      DamagedCheckpointError: If there are checkpoints but all are damaged.
      SaveError: At the next step after a checkpoint could not be saved.
      ValueError: If accumulation and devices don't divide the batch size.
    """
    sharding.check_batch_size(config.train.batch_size, config.train.accumulate, mesh)
    seed = jax.device_put(np.int32(config.seed), sharding.replicated(mesh))
    pending: _Pending | None = None
    notice: preemption.Notice | None = None
    with contextlib.ExitStack() as stack:
        ready = stack.enter_context(placed_ahead(batches, mesh, config.system.batches_ahead))
        session = Session(config, assembled, ready, validate, run=run, description=description)
        stack.callback(session.close)
        plan, state, reporter = assembled.plan, session.state, session.reporter
        progress = session.progress
        trace = stack.enter_context(contextlib.closing(Trace(config.system, run)))
        if session.unevaluated:
            compile_validation(state.eval_params)
            state = session.catch_up()
        progress.restart()
        for step in session.steps():
            trace.before(step)
            batch, ids = progress.wait_for(ready)
            take_step = assembled.step_at(config.seed, step)
            with progress.compiling(not take_step._cache_size(), reporter.say):
                state, metrics = take_step(state, batch, seed)
                if notice is None:
                    # Compilation can't be interrupted, but so far there is nothing to save.
                    compile_validation(state.eval_params)
            if notice is None:
                notice = stack.enter_context(preemption.watch())
            trace.after(step, metrics)
            # The previous step is checked while this one is computed.
            if pending:
                pending.check()
            pending = _Pending(step, metrics, ids)
            progress.add(metrics)
            check_owner()
            session.checkpoints.check()
            reporter.advance(step)
            evaluate = step in plan.evaluate_at
            log = step % config.train.log_every_steps == 0 or step == plan.total_steps
            stopping = notice.reached()
            if evaluate or log or stopping:
                pending.check()
            if log:
                rate = optim.learning_rate(assembled.schedule, step - 1, state.plateau)
                pending.report(reporter, rate, SCORE_NAMES[config.model.task], progress.share())
            if stopping:
                raise session.stop(step, state)
            if evaluate:
                state = session.evaluate(step, state)
        session.checkpoints.wait()
        preempted = notice is not None and notice.reached()
    return Result(state, session.best.step, session.best.value, assembled.train_compiles, preempted)


@dataclasses.dataclass(frozen=True)
class _Pending:
    """Metrics of a step that may not have been computed yet."""

    step: int
    metrics: StepMetrics
    ids: np.ndarray

    def check(self) -> None:
        """Raises NonFiniteError if the loss or a gradient is not finite."""
        groups = [
            name for name, finite in jax.device_get(self.metrics.finite).items() if not finite
        ]
        if np.isfinite(self.metrics.loss) and not groups:
            return
        shards = [s for s in self.metrics.example_loss.addressable_shards if s.replica_id == 0]
        loss = np.concatenate([s.data for s in sorted(shards, key=lambda s: s.index[0].start or 0)])
        bad = self.ids[~np.isfinite(loss)]
        where = "loss of examples" if len(bad) else "gradient of a batch with examples"
        ids = ", ".join(map(str, bad if len(bad) else self.ids))
        raise NonFiniteError(
            f"step {self.step}: not finite: {where} {ids}; parameter groups with a gradient"
            f" that is not finite: {', '.join(groups) or 'none'}"
        )

    def report(self, reporter: Reporter, rate: float, score_name: str, waited: float) -> None:
        """Reports the metrics.

        Args:
          reporter: Reports of the run.
          rate: Learning rate of the step.
          score_name: Name of the score.
          waited: Share of the time spent waiting for input.
        """
        scalars = {
            "train/loss": float(self.metrics.loss),
            f"train/{score_name}": float(self.metrics.score),
            "train/gradient_norm": float(self.metrics.gradient_norm),
            "train/learning_rate": rate,
            "train/input_wait": waited,
        }
        reporter.scalars(self.step, scalars)
        reporter.note(f"loss {scalars['train/loss']:.3f}, {waited:.1%} waiting for input")
