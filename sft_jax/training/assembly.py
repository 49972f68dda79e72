"""Assembly of the parts of training from a config and a model."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from sft_jax.config import ExperimentConfig
from sft_jax.modules.factory import build_model
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.parallel import sharding
from sft_jax.structs import ModalitySpec
from sft_jax.training import optim
from sft_jax.training.programs import Programs, SharedPrograms, make_programs
from sft_jax.training.state import TrainState
from sft_jax.training.strides import draw_stride
from sft_jax.training.values import RunStep, Values, put_numbers, without_values

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Number of steps, steps followed by an evaluation, and first step that mixes examples.

    Steps are computed with fractions: a product of floats could be rounded up to one step too many.

    Attributes:
      steps_per_epoch: Number of steps in an epoch.
      total_steps: Number of steps in the run.
      evaluate_at: Steps, counted from 1, that are followed by an evaluation.
      mixup_from: First step, counted from 0, that mixes examples.
    """

    steps_per_epoch: Fraction
    total_steps: int
    evaluate_at: frozenset[int]
    mixup_from: int

    @classmethod
    def from_config(cls, config: ExperimentConfig, num_examples: int) -> Plan:
        """Makes the plan for `num_examples` training examples in an epoch."""
        per_epoch = Fraction(num_examples, config.train.batch_size)
        total = math.ceil(config.train.epochs * per_epoch)
        every = config.train.evaluate_every_epochs
        ends = range(every, config.train.epochs + 1, every)
        evaluate_at = frozenset({math.ceil(e * per_epoch) for e in ends} | {total})
        mixup_from = math.ceil(optim.exact(config.mixup.warmup_epochs) * per_epoch)
        return cls(per_epoch, total, evaluate_at, mixup_from)

    def is_exhausted(self, step: int, best_step: int | None, patience: int) -> bool:
        """Returns True if patience ends training before the last step.

        Args:
          step: Number of steps taken, the last evaluation included.
          best_step: Step of the best evaluation so far; None if there is none.
          patience: `train.patience`.
        """
        if not patience or step >= self.total_steps:
            return False
        return sum((best_step or 0) < done <= step for done in self.evaluate_at) >= patience


@dataclasses.dataclass(frozen=True)
class Assembled:
    """Everything needed to train a model, independent of the seed.

    Attributes:
      model: Module.
      plan: Number of steps, and steps followed by an evaluation.
      schedule: Learning rate by step.
      optimizer: Optimiser with this schedule.
      new_state: Function from a seed to the state before the first step.
      first_state: Function from parameters to the state before the first step.
      like: Shapes, dtypes and shardings of a state.
      steps: Training step of each stride, 1 alone without `train.elastic_patch`. A step is a jitted
        function from a state, a batch and a seed to the next state and the metrics. It donates
        the memory of the state, and is compiled on its first call.
      evaluate: Evaluation step; see `sft_jax.training.step.compile_eval_step`.
    """

    model: Any
    plan: Plan
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    new_state: Callable[[int], TrainState]
    first_state: Callable[[Any], TrainState]
    like: TrainState
    steps: Mapping[int, RunStep]
    evaluate: Any

    @property
    def step(self) -> RunStep:
        """Training step of stride 1."""
        return self.steps[1]

    @property
    def train_compiles(self) -> int:
        """Number of times a training step was compiled, over all strides and sharing runs."""
        return sum(step._cache_size() for step in self.steps.values())

    def step_at(self, seed: int, step: int) -> RunStep:
        """Returns the training step of the stride drawn for a step, counted from 1."""
        if len(self.steps) == 1:
            return self.step
        return self.steps[draw_stride([*self.steps], seed, step - 1)]


def build(
    config: ExperimentConfig,
    modalities: Mapping[str, ModalitySpec],
    num_classes: int,
    mesh: Mesh,
) -> MultimodalClassifier:
    """Builds the model of a config, and chooses `parts` by the mesh if the config leaves it open.

    With `model.parts=0` a single CPU device processes long sequences one example at a time,
    which saves memory at no cost in time. All other meshes process a batch at once.

    Args:
      config: Experiment.
      modalities: Shape of each modality by name.
      num_classes: Number of outputs of the model.
      mesh: Devices that the model is for.
    """
    platforms = {device.platform for device in mesh.devices.flat}
    one_cpu = mesh.size == 1 and platforms == {"cpu"}
    parts = config.model.parts or (config.train.batch_size if one_cpu else 1)
    return build_model(dataclasses.replace(config.model, parts=parts), modalities, num_classes)


def assemble_model(
    config: ExperimentConfig,
    modalities: Mapping[str, ModalitySpec],
    num_classes: int,
    *,
    num_examples: int,
    mesh: Mesh,
    schedule: optax.Schedule | None = None,
    class_weights: Sequence[float] = (),
    shared: SharedPrograms | None = None,
) -> Assembled:
    """Builds the model of a config and all parts that training it needs.

    Args:
      config: Experiment.
      modalities: Shape of each modality by name.
      num_classes: Number of outputs of the model.
      num_examples: Number of training examples in an epoch, over all processes.
      mesh: Devices.
      schedule: Learning rate by step; by default that of the config.
      class_weights: Weight of each class or label; see `sft_jax.training.step.loss_fn`.
      shared: Programs of earlier runs, which this run uses where they are its own.

    Raises:
      ValueError: See `assemble`. Also if the model does not fit the modalities.
    """
    plan, schedule = _scheduled(config, num_examples, schedule)
    general = without_values(config, fixed_rate=_is_fixed(schedule))

    def make() -> Programs:
        return make_programs(
            general, build(config, modalities, num_classes, mesh), mesh, class_weights
        )

    if shared is None:
        programs = make()
    else:
        key = (general, dict(modalities), num_classes, mesh, tuple(class_weights))
        programs = shared.get(key, make)
    return _assembled(config, programs, plan, schedule, mesh)


def assemble(
    config: ExperimentConfig,
    model: Any,
    *,
    num_examples: int,
    mesh: Mesh,
    schedule: optax.Schedule | None = None,
    class_weights: Sequence[float] = (),
) -> Assembled:
    """Makes all parts that training a model needs.

    Args:
      config: Experiment.
      model: Module, such as one from `sft_jax.modules.factory.build_model`.
      num_examples: Number of training examples in an epoch, over all processes.
      mesh: Devices.
      schedule: Learning rate by step; by default that of the config.
      class_weights: Weight of each class or label; see `sft_jax.training.step.loss_fn`.

    Raises:
      ValueError: If the `model` axis of the mesh does not divide the heads, or the warm-up is as
        long as the run. Also for options that the optimiser does not accept, and for strides and
        numbers of kept tokens that the model can't have. Also see `groups.check_groups`.
    """
    plan, schedule = _scheduled(config, num_examples, schedule)
    general = without_values(config, fixed_rate=_is_fixed(schedule))
    programs = make_programs(general, model, mesh, class_weights)
    return _assembled(config, programs, plan, schedule, mesh)


def _scheduled(
    config: ExperimentConfig, num_examples: int, schedule: optax.Schedule | None
) -> tuple[Plan, optax.Schedule]:
    plan = Plan.from_config(config, num_examples)
    if config.mixup.layers != "none" and plan.mixup_from >= plan.total_steps:
        _logger.warning(
            "mixup.layers=%r mixes nothing: mixup.warmup_epochs=%g is not below train.epochs=%d",
            config.mixup.layers,
            config.mixup.warmup_epochs,
            config.train.epochs,
        )
    if schedule is None:
        schedule = optim.make_schedule(config.optim, plan.steps_per_epoch, plan.total_steps)
    return plan, schedule


def _is_fixed(schedule: optax.Schedule) -> bool:
    return isinstance(schedule, optim.Schedule) and schedule.is_fixed


def _assembled(
    config: ExperimentConfig,
    programs: Programs,
    plan: Plan,
    schedule: optax.Schedule,
    mesh: Mesh,
) -> Assembled:
    """Adds the plan, the schedule and the values of a run to programs."""
    everywhere = sharding.replicated(mesh)
    if isinstance(schedule, optim.Schedule):
        rate = schedule.compiled(everywhere)
    else:
        rate = jax.jit(schedule, out_shardings=everywhere)
    values = put_numbers(Values.from_config(config, plan.mixup_from), everywhere)
    return Assembled(
        model=programs.model,
        plan=plan,
        schedule=schedule,
        optimizer=optim.make_optimizer(config.optim, schedule),
        new_state=programs.new_state,
        first_state=programs.first_state,
        like=programs.like,
        steps={s: RunStep(program, rate, values) for s, program in programs.steps.items()},
        evaluate=programs.evaluate,
    )
