"""Initial state of a run: random, or with the parameters of another trained model."""

from __future__ import annotations

from collections.abc import Sequence

from sft_jax.inference import loading
from sft_jax.inference.classifier import Classifier
from sft_jax.training.assembly import Assembled
from sft_jax.training.state import TrainState
from sft_jax.training.transfer import Source, Transfer, transfer


def read_source(path: str) -> Classifier:
    """Reads the trained model that `train.init_from` names.

    Args:
      path: Run directory or exported folder.

    Raises:
      ValueError: If it is neither, or has no undamaged checkpoint.
    """
    try:
        return loading.load(path)
    except ValueError as error:
        raise ValueError(f"train.init_from: {error}") from error


def begin_from(
    source: Classifier, path: str, assembled: Assembled, seed: int, class_names: Sequence[str]
) -> tuple[TrainState, Transfer]:
    """Makes the initial state of a run that begins with the parameters of a trained model.

    Args:
      source: Trained model.
      path: Path of `source`, for messages.
      assembled: Model and optimiser of the run.
      seed: Seed of the parameters that the source lacks.
      class_names: Names of the outputs of the run.

    Returns:
      The state, and a report on the parameters.

    Raises:
      ValueError: See `transfer`.
    """
    model = Source(path, source.model, source.params, source.info.class_names)
    taken = transfer(model, assembled.model, assembled.like.params, class_names)
    return assembled.first_state(taken.apply(assembled.new_state(seed).params)), taken
