"""From a config and a model to all that training is made of."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from sft_jax.config import ExperimentConfig, check_heads
from sft_jax.modules.factory import build_model
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.parallel import sharding
from sft_jax.structs import ModalitySpec
from sft_jax.training import optim
from sft_jax.training.state import TrainState, compile_create_state
from sft_jax.training.step import compile_train_step


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many steps there are, after which of them to evaluate, and which is the first mixed.

    Steps are counted in fractions: a product of floats may be rounded up to one too many.
    """

    steps_per_epoch: Fraction
    total_steps: int
    evaluate_at: frozenset[int]
    mixup_from: int

    @classmethod
    def of(cls, config: ExperimentConfig, num_examples: int) -> Plan:
        """The plan for `num_examples` training examples in an epoch."""
        per_epoch = Fraction(num_examples, config.train.batch_size)
        total = math.ceil(config.train.epochs * per_epoch)
        every = config.train.evaluate_every_epochs
        ends = range(every, config.train.epochs + 1, every)
        evaluate_at = frozenset({math.ceil(e * per_epoch) for e in ends} | {total})
        mixup_from = math.ceil(optim.exact(config.mixup.warmup_epochs) * per_epoch)
        return cls(per_epoch, total, evaluate_at, mixup_from)


@dataclasses.dataclass(frozen=True)
class Assembled:
    """What a config makes of a model, but for its seed, of which nothing here knows.

    Attributes:
      model: the module.
      plan: how long it is trained.
      schedule: learning rate by step.
      optimizer: with that schedule.
      observe: the jitted function from the state of the plateau schedule, and `value`, a loss
        of validation, to nothing and the next state.
      new_state: makes the state before the first step, from a seed.
      like: Shapes, types and shardings of a state.
      step: the jitted function from a state, whose memory it takes over, a batch and a seed to
        the next state and the metrics; compiled when it is first called.
    """

    model: Any
    plan: Plan
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    observe: Any
    new_state: Callable[[int], TrainState]
    like: TrainState
    step: Any


def build(
    config: ExperimentConfig,
    modalities: Mapping[str, ModalitySpec],
    num_classes: int,
    mesh: Mesh,
) -> MultimodalClassifier:
    """Builds the model of a config for a mesh, which decides what the config leaves open.

    With `model.parts=0` a single CPU device works through long sequences one example at a time,
    which saves memory and costs no time there. All other meshes take a batch at once.

    Args:
      config: Experiment.
      modalities: Shape of each modality by name.
      num_classes: Outputs of the model.
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
) -> Assembled:
    """Builds the model of a config, and what it is trained with.

    Args:
      config: of the experiment.
      modalities: name to shape of each.
      num_classes: outputs of the model.
      num_examples: training examples in an epoch.
      mesh: the devices.

    Raises:
      ValueError: as `assemble`, or if the model is not one for such modalities.
    """
    model = build(config, modalities, num_classes, mesh)
    return assemble(config, model, num_examples=num_examples, mesh=mesh)


def assemble(config: ExperimentConfig, model: Any, *, num_examples: int, mesh: Mesh) -> Assembled:
    """Makes all that it takes to train a model.

    Args:
      config: of the experiment.
      model: a module as `sft_jax.modules.factory.build_model` makes it.
      num_examples: training examples in an epoch, over all processes.
      mesh: the devices.

    Raises:
      ValueError: if the `model` axis of the mesh does not divide the heads, the optimiser's options
        don't fit it, or the warm-up is as long as the run.
    """
    check_heads(model.num_heads, mesh.shape["model"])
    plan = Plan.of(config, num_examples)
    schedule = optim.make_schedule(config.optim, plan.steps_per_epoch, plan.total_steps)
    optimizer = optim.make_optimizer(config.optim, schedule)
    plateau = optim.make_plateau(config.optim)
    new_state, like = compile_create_state(
        model, optimizer, plateau, ema=config.train.ema_decay > 0, mesh=mesh
    )
    train_step = compile_train_step(
        model, optimizer, config, mesh, like, mixup_from=plan.mixup_from
    )
    return Assembled(
        model=model,
        plan=plan,
        schedule=schedule,
        optimizer=optimizer,
        observe=jax.jit(
            functools.partial(plateau.update, {}), out_shardings=sharding.replicated(mesh)
        ),
        new_state=new_state,
        like=like,
        step=train_step,
    )
