"""Predictions for all examples of a split."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sft_jax.data import pipeline
from sft_jax.data.datasets import Example
from sft_jax.evaluation import subsets
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.ops.losses import SCORE_NAMES, example_scores
from sft_jax.parallel import preemption, sharding
from sft_jax.structs import Task
from sft_jax.training import step


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model gives for each example of a split, in the order of the split.

    Attributes:
      ids: `[n]` strings.
      labels: `[n]` true classes; for multi_label and regression `[n, c]` labels or numbers.
      logits: `[n, c]` floats, the outputs of the model: for regression predicted numbers.
      loss: `[n]` losses.
      task: what was predicted.
    """

    ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    loss: np.ndarray
    task: Task = "single_label"


class Evaluator:
    """Evaluates parameters on a split; compiles once, however often it is called."""

    def __init__(
        self,
        model: MultimodalClassifier,
        source: Sequence[Example],
        batch_size: int,
        mesh: Mesh,
        modalities: Sequence[str] | None = None,
        loss: str = "auto",
    ) -> None:
        """Prepares the evaluation.

        Args:
          model: as `sft_jax.modules.factory.build_model` makes it.
          source: the examples of the split.
          batch_size: examples per batch, over all devices and processes.
          mesh: the devices.
          modalities: names of those that the model is given; by default all. An example
            that has none of them is evaluated like any other.
          loss: Loss of `sft_jax.ops.losses` that is reported, the one trained with.

        Raises:
          ValueError: if `source` is empty, or for `modalities` as `check_subset` says.
        """
        self._modalities = subsets.check_subset(model, modalities)
        self._source = source
        self._task = model.task
        self._mesh = mesh
        self._step = step.compile_eval_step(model, mesh, loss)
        self._batches = pipeline.eval_batches(
            source,
            batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def predict(self, params: Any) -> Predictions:
        """Predictions for every example, each once.

        Raises:
          GivenUpError: where training evaluates and its process is told to end.
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
        """Compiles, if it has not been done, and looks at one batch for that."""
        if not self.compiles:
            next(self._outputs(params))

    def __call__(self, params: Any) -> dict[str, float]:
        """The mean loss, and accuracy or mae (`SCORE_NAMES`), as training watches them.

        Both are NaN where an output of the model is NaN or infinite, so that it is never the
        best: what is not a number has no largest.
        """
        return self.scores(self.predict(params))

    def scores(self, predictions: Predictions) -> dict[str, float]:
        """What a call gives, of predictions of its split."""
        scores: Any = np.float32(np.nan)
        if np.isfinite(predictions.logits).all():
            scores = example_scores(self._task, predictions.logits, predictions.labels)
        return {
            "loss": float(predictions.loss.mean()),
            SCORE_NAMES[self._task]: float(np.asarray(scores, np.float64).mean()),
        }

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that the model is given, sorted."""
        return self._modalities

    @property
    def compiles(self) -> int:
        """How often the evaluation step was compiled."""
        return self._step._cache_size()

    def _outputs(self, params: Any) -> Iterator[step.Outputs]:
        for number, (batch, ids) in enumerate(self._batches):
            given = subsets.restrict(batch, self._modalities)
            # As `pipeline.eval_batches` shares them out.
            turns = np.arange(number * len(ids), (number + 1) * len(ids))
            positions = turns * jax.process_count() + jax.process_index()
            placed = sharding.put_batch((given, positions.astype(np.int32)), self._mesh)
            yield self._step(params, *placed)

    def _in_order(self, outputs: list[step.Outputs], name: str) -> np.ndarray:
        """Joins what batches gave, in the order of the split and without what filled them up."""
        values, positions = [], []
        for output in outputs:
            preemption.interruption_point()  # Here the host waits for what it has asked for.
            values.append(np.asarray(getattr(output, name), np.float32))
            positions.append(np.asarray(output.positions))
        order = np.argsort(np.concatenate(positions))
        return np.concatenate(values)[order][: len(self._source)]
