"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from sft_jax import config_io
from sft_jax.config import ExperimentConfig
from sft_jax.ops.losses import SCORE_NAMES
from sft_jax.parallel import preemption, sharding
from sft_jax.runs import storage
from sft_jax.runs.checkpoint import Checkpoints
from sft_jax.structs import Batch
from sft_jax.training import assembly, state, step
from sft_jax.training.reporting import Reporter, Silent
from sft_jax.training.tracing import Trace

_logger = logging.getLogger(__name__)

Validate = Callable[[Any], Mapping[str, float]]
"""Computes named metrics, `loss` among them, from parameters."""


class BatchIterator(Protocol):
    """An endless iterator of batches and the ids of their examples, whose state can be saved."""

    def __next__(self) -> tuple[Batch, np.ndarray]:
        """The next batch."""

    def get_state(self) -> Any:
        """JSON values that say which batch is next."""

    def set_state(self, state: Any) -> None:
        """Goes to where `state` was taken."""


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
      state: after the last step.
      best_step: step of the best checkpoint, None if no evaluation gave a finite metric.
      best_value: its validation metric.
      train_compiles: how often the training step was compiled in this process.
      told_to_end: whether the process was told to end, too late to stop this run.
    """

    state: state.TrainState
    best_step: int | None
    best_value: float | None
    train_compiles: int
    told_to_end: bool


def fit(
    config: ExperimentConfig,
    made: assembly.Assembled,
    batches: BatchIterator,
    validate: Validate,
    *,
    compile_validation: Callable[[Any], None],
    workdir: storage.AnyPath,
    description: Mapping[str, Any],
    mesh: Mesh,
    check_owner: Callable[[], None] = lambda: None,
) -> Result:
    """Trains a model, from the latest checkpoint of `workdir` if there is one.

    Args:
      config: of the experiment.
      made: what the config makes of a model, for these devices. Runs that differ in nothing but
        their seed may share it, and with it what is compiled.
      batches: of this process's share of the training examples.
      validate: evaluates parameters.
      compile_validation: compiles it, given parameters.
      workdir: the run directory, which `run_directory.prepare` has made.
      description: what to save with each checkpoint beside the config and metrics.
      mesh: the devices.
      check_owner: called at each step; what it raises ends training, and nothing is saved.

    Raises:
      NonFiniteError: at the first loss or gradient that is not finite; the state before
        that step is not overwritten.
      PreemptedError: if the process was told to end, after saving the step it was at. An
        evaluation that was interrupted is done again by the run that goes on.
      DamagedCheckpointError: if there are checkpoints but none is as it was saved.
      SaveError: at the step after saving a checkpoint failed.
      ValueError: if batch, accumulation and devices don't divide.
    """
    sharding.check_batch_size(config.train.batch_size, config.train.accumulate, mesh)
    plan, train_state = made.plan, made.new_state(config.seed)
    seed = jax.device_put(np.int32(config.seed), sharding.replicated(mesh))

    checkpoints = Checkpoints(workdir, config.train.keep_latest)
    resumed = checkpoints.resume(train_state)
    best = _Best.of(checkpoints, config.train.best_metric)
    if resumed:
        train_state, saved = resumed
        batches.set_state(saved["iterator"])
        if saved["metrics"] is not None:
            # It may have been restored from the best, where the latest was damaged.
            checkpoints.save("latest", train_state, saved)
            # Both are saved at once, the latest first: a kill may have left the best unsaved.
            if best.update(int(train_state.step), saved["metrics"]):
                checkpoints.save("best", train_state, saved)
    first = int(train_state.step) + 1
    unevaluated = resumed and resumed[1]["metrics"] is None and first - 1 in plan.evaluate_at
    reporter: Reporter = Silent()
    if jax.process_index() == 0:
        reporter = Reporter(workdir, first - 1, plan.total_steps, evaluated=not unevaluated)
    if first > 1:
        reporter.say(f"going on from step {first - 1} of {plan.total_steps}")

    def about(metrics: Mapping[str, float] | None) -> dict[str, Any]:
        return {
            **description,
            "config": config_io.to_json(config),
            "metrics": metrics,
            "iterator": batches.get_state(),
        }

    def stop(number: int, train_state: state.TrainState) -> preemption.PreemptedError:
        _logger.warning("told to end by SIGTERM: saving step %d in %s", number, workdir)
        # Before the checkpoint, as in evaluate_and_save.
        reporter.flush()
        checkpoints.save("stopped", train_state, about(None))
        checkpoints.wait()
        return preemption.PreemptedError(
            f"stopped at step {number} of {plan.total_steps}, which is saved in {workdir}:"
            " run the same command again to go on from there"
        )

    def evaluate_and_save(
        number: int, train_state: state.TrainState, wait: float
    ) -> state.TrainState:
        try:
            values = dict(validate(train_state.eval_params))
        except preemption.GivenUpError:
            raise stop(number, train_state) from None
        if config.optim.schedule == "plateau" and math.isfinite(values["loss"]):
            _, seen = made.observe(train_state.plateau, value=np.float32(values["loss"]))
            train_state = train_state.replace(plateau=seen)
        saved = about(values)
        # Before the checkpoint, from which on a later start reports nothing again.
        reporter.scalars(number, {f"valid/{name}": value for name, value in values.items()})
        reporter.flush()
        checkpoints.save("latest", train_state, saved)
        improved = best.update(number, values)
        if improved:
            checkpoints.save("best", train_state, saved)
        reporter.say(
            f"epoch {float(number / plan.steps_per_epoch):5.1f}  step {number:6d}  "
            + "  ".join(f"valid {name} {value:.4g}" for name, value in values.items())
            + f"  {wait:.1%} waiting for input"
            + ("  (best so far)" if improved else "")
        )
        return train_state

    pending: _Pending | None = None
    clock, trace = _Clock(), Trace(config.system, workdir)
    told_to_end = False
    try:
        with contextlib.ExitStack() as watching:
            if unevaluated:
                compile_validation(train_state.eval_params)
                with preemption.watch() as notice:
                    train_state = evaluate_and_save(first - 1, train_state, clock.share())
                    if notice.reached():
                        raise stop(first - 1, train_state)
                clock.restart()
            for number in range(first, plan.total_steps + 1):
                trace.before(number)
                with clock.waiting():
                    batch, ids = next(batches)
                placed = sharding.put_batch(batch, mesh)
                train_state, metrics = made.step(train_state, placed, seed)
                if number == first:
                    # Compiling can't be interrupted; until here there was nothing to save.
                    compile_validation(train_state.eval_params)
                    notice = watching.enter_context(preemption.watch())
                trace.after(number, metrics)
                # The step before is looked at while this one is computed.
                if pending:
                    pending.check()
                pending = _Pending(number, metrics, ids)
                check_owner()
                checkpoints.check()
                reporter.advance(number)
                evaluate = number in plan.evaluate_at
                log = number % config.train.log_every_steps == 0 or number == plan.total_steps
                stopping = notice.reached()
                if evaluate or log or stopping:
                    pending.check()
                if log:
                    rate = float(made.schedule(number - 1)) * float(train_state.plateau.scale)
                    scalars = pending.scalars(rate, SCORE_NAMES[config.model.task])
                    wait = clock.share()
                    reporter.scalars(number, {**scalars, "train/input_wait": wait})
                    reporter.note(f"loss {float(metrics.loss):.3f}, {wait:.1%} waiting for input")
                if stopping:
                    raise stop(number, train_state)
                if evaluate:
                    train_state = evaluate_and_save(number, train_state, clock.share())
                    clock.restart()
            checkpoints.wait()
            told_to_end = first <= plan.total_steps and notice.reached()
    finally:
        trace.close()
        reporter.close()
        checkpoints.close()
    return Result(train_state, best.step, best.value, made.step._cache_size(), told_to_end)


class _Clock:
    """Which share of the time of training steps goes by waiting for input."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets what has been until now."""
        self._start, self._waited = time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done within is waiting."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    def share(self) -> float:
        """The share since the last restart."""
        return self._waited / (time.perf_counter() - self._start)


@dataclasses.dataclass
class _Best:
    """The best validation metric so far; NaN is never better than anything."""

    metric: str
    step: int | None = None
    value: float | None = None

    @classmethod
    def of(cls, checkpoints: Checkpoints, metric: str) -> _Best:
        best = cls(metric)
        if checkpoints.steps("best"):
            best.step = checkpoints.steps("best")[-1]
            best.value = checkpoints.description("best")["metrics"][metric]
        return best

    def update(self, step: int, values: Mapping[str, float]) -> bool:
        new = values[self.metric]
        sign = -1 if self.metric == "loss" else 1
        if not math.isfinite(new) or (self.value is not None and sign * new <= sign * self.value):
            return False
        self.step, self.value = step, new
        return True


@dataclasses.dataclass(frozen=True)
class _Pending:
    """What a step reported, still on its way from the device."""

    step: int
    metrics: step.StepMetrics
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

    def scalars(self, learning_rate: float, score_name: str) -> dict[str, float]:
        return {
            "train/loss": float(self.metrics.loss),
            f"train/{score_name}": float(self.metrics.score),
            "train/gradient_norm": float(self.metrics.gradient_norm),
            "train/learning_rate": learning_rate,
        }
