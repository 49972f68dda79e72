"""Predictions for all examples of a split."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sft_jax.data import pipeline
from sft_jax.data.dataset import Example
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.ops.losses import SCORE_NAMES, example_scores
from sft_jax.parallel import preemption, sharding
from sft_jax.structs import Batch, Task
from sft_jax.training.step import Outputs, compile_eval_step

MAX_MODALITIES = 4
"""Largest number of modalities for which all subsets are evaluated: 15 evaluations."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Outputs of a model for each example of a split, in the order of the split.

    Attributes:
      ids: `[n]` names of the examples.
      labels: `[n]` true classes; for multi_label and regression `[n, c]` labels or numbers.
      logits: `[n, c]` floats, the outputs of the model; for regression the predicted numbers.
      loss: `[n]` losses.
      task: Task of the model.
    """

    ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    loss: np.ndarray
    task: Task = "single_label"


class Evaluator:
    """Evaluates parameters on a split; compiles only once."""

    def __init__(
        self,
        model: MultimodalClassifier,
        source: Sequence[Example],
        batch_size: int,
        mesh: Mesh,
        modalities: Sequence[str] | None = None,
        loss: str = "auto",
        step: Any = None,
    ) -> None:
        """Prepares the evaluation.

        Args:
          model: Module, such as one from `sft_jax.modules.factory.build_model`.
          source: Examples of the split.
          batch_size: Examples per batch, over all devices and processes.
          mesh: Devices.
          modalities: Names of the modalities that the model gets; by default all. An example
            that has none of them is evaluated like any other.
          loss: Loss of `sft_jax.ops.losses` to report, usually the loss of training.
          step: Result of `compile_eval_step` for the same model, mesh and loss, if there is one.

        Raises:
          ValueError: If `source` is empty, or `check_subset` refuses `modalities`.
        """
        self._modalities = check_subset(model, modalities)
        self._source = source
        self._task = model.task
        self._mesh = mesh
        self._step = step or compile_eval_step(model, mesh, loss)
        self._batches = pipeline.eval_batches(
            source,
            batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def predict(self, params: Any) -> Predictions:
        """Computes the predictions for every example, each once.

        Raises:
          GivenUpError: If the process is asked to end during an evaluation in training.
        """
        outputs = []
        for output in self._outputs(params):
            preemption.interruption_point()
            outputs.append(output)
        return Predictions(
            ids=np.array([example["id"] for example in self._source]),
            labels=pipeline.stack_labels(self._source),
            logits=self._in_order(outputs, "logits"),
            loss=self._in_order(outputs, "loss"),
            task=self._task,
        )

    def compile(self, params: Any) -> None:
        """Compiles with one batch, unless already compiled."""
        if not self.compiles:
            next(self._outputs(params))

    def __call__(self, params: Any) -> dict[str, float]:
        """Computes the mean loss, and accuracy or mae (`SCORE_NAMES`), for training.

        Both are NaN if an output of the model is NaN or infinite, so that such parameters never
        count as the best.
        """
        return self.scores(self.predict(params))

    def scores(self, predictions: Predictions) -> dict[str, float]:
        """Computes the metrics of `__call__` from predictions of its split."""
        scores: Any = np.float32(np.nan)
        if np.isfinite(predictions.logits).all():
            scores = example_scores(self._task, predictions.logits, predictions.labels)
        return {
            "loss": float(predictions.loss.mean()),
            SCORE_NAMES[self._task]: float(np.asarray(scores, np.float64).mean()),
        }

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the model gets, sorted."""
        return self._modalities

    @property
    def compiles(self) -> int:
        """Number of times the evaluation step was compiled."""
        return self._step._cache_size()

    def _outputs(self, params: Any) -> Iterator[Outputs]:
        for number, (batch, ids) in enumerate(self._batches):
            batch = restrict(batch, self._modalities)
            # `pipeline.eval_batches` deals the examples to the processes in turn.
            turns = np.arange(number * len(ids), (number + 1) * len(ids))
            positions = turns * jax.process_count() + jax.process_index()
            placed = sharding.put_batch((batch, positions.astype(np.int32)), self._mesh)
            yield self._step(params, *placed)

    def _in_order(self, outputs: list[Outputs], name: str) -> np.ndarray:
        """Joins the outputs of batches in the order of the split, without padding examples."""
        values, positions = [], []
        for output in outputs:
            preemption.interruption_point()  # The host waits for the devices here.
            values.append(np.asarray(getattr(output, name), np.float32))
            positions.append(np.asarray(output.positions))
        order = np.argsort(np.concatenate(positions))
        return np.concatenate(values)[order][: len(self._source)]


def check_subset(
    model: MultimodalClassifier, modalities: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Checks the modalities to give to a model, and returns them sorted.

    Args:
      model: Model to evaluate.
      modalities: Names of modalities. Defaults to all modalities of the model.

    Raises:
      ValueError: If no modality is given, one is unknown or occurs twice, or the logits of the
        model depend on none of them.
    """
    known = sorted(model.modalities)
    names = known if modalities is None else sorted(modalities)
    allowed = f"allowed are {', '.join(known)}, each once"
    if not names:
        raise ValueError(f"modalities: at least one must be named; {allowed}")
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"modalities: unknown {', '.join(map(repr, unknown))}; {allowed}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"modalities: {', '.join(twice)} more than once; {allowed}")
    used = model.mixed_modalities
    if not set(names) & set(used):
        raise ValueError(
            f"modalities={','.join(names)}: the model classifies {', '.join(used)} alone, and"
            " without it would give every example the same logits"
        )
    return tuple(names)


def every_subset(model: MultimodalClassifier) -> list[tuple[str, ...]]:
    """Lists the non-empty sets of the modalities that the logits depend on, the largest first.

    Raises:
      ValueError: If there are more than `MAX_MODALITIES` modalities.
    """
    used = sorted(model.mixed_modalities)
    if len(used) > MAX_MODALITIES:
        raise ValueError(
            f"{len(used)} modalities have {2 ** len(used) - 1} subsets; all can be evaluated at"
            f" once for at most {MAX_MODALITIES} modalities, and one at a time for any number"
        )
    sizes = range(len(used), 0, -1)
    return [subset for size in sizes for subset in itertools.combinations(used, size)]


def restrict(batch: Batch, modalities: Sequence[str]) -> Batch:
    """Returns a batch with only the inputs and masks of the given modalities."""
    return batch.replace(
        inputs={name: batch.inputs[name] for name in modalities},
        masks={name: batch.masks[name] for name in modalities},
    )
