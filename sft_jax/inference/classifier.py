"""A trained model that classifies raw values."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sft_jax.data.dataset import DatasetInfo
from sft_jax.evaluation.scores import calibrated, check_outputs, probabilities
from sft_jax.inference.explain import Explanation, explain, explain_program
from sft_jax.inference.inputs import MAX_BATCH, InputReader, Inputs, batched, split_examples
from sft_jax.modules.budget import with_budget
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.modules.stride import resize_params, with_stride
from sft_jax.ops.pool import POOLS
from sft_jax.structs import CLASS_TASKS, NotFinite

Budget = int | Mapping[str, int] | None
"""Number of tokens kept of each modality, for all or by name; None for that of the training."""


class Classifier:
    """A trained model that classifies raw values, one example or many.

    `sft_jax.load` makes one of a run directory. Inputs are raw values by modality: they are
    standardised, padded and masked as in training. A mapping holds one example as
    `[*lengths, features]` for each modality. Many examples are lists of such arrays, of any
    lengths, or arrays with one axis more in front. Any modality may be absent: left out, None, or
    None in a list.

        classifier = sft_jax.load("runs/watch")
        classifier.predict({"accelerometer": window, "gyroscope": None})  # "ROW"

    An example of another kind than series, images and videos has the form of its kind
    (`sft_jax.data.kinds`): a text is a string. A derived modality (`info.derived`) is computed
    from its source, unless it is given.

    The first call with a shape compiles. Lengths and numbers of examples are rounded up to powers
    of two, and at most `sft_jax.inference.inputs.MAX_BATCH` examples are computed at once.

    Attributes:
      model: Flax module.
      params: Parameters that are evaluated: the running mean where one was trained.
      info: Description of the data that the model was trained on.
      step: Number of optimiser steps that the parameters were trained for.
      not_finite: Treatment of NaN and infinite inputs.
      thresholds: Thresholds that were chosen on validation data, by name; see `predict`. They
        are of the probabilities at temperature 1.
      temperature: Temperature that was fitted on validation data, or 1. It changes the
        probabilities, and no decision.
    """

    def __init__(
        self,
        model: MultimodalClassifier,
        params: Any,
        info: DatasetInfo,
        *,
        step: int = 0,
        not_finite: NotFinite = "error",
        thresholds: Mapping[str, float] | None = None,
        temperature: float = 1.0,
    ) -> None:
        """Compiles nothing yet.

        Args:
          model: Flax module.
          params: Its parameters.
          info: Description of the data that it was trained on.
          step: Number of optimiser steps behind the parameters.
          not_finite: Treatment of NaN and infinite inputs, as in training.
          thresholds: Default of `threshold` in `predict`; 0.5 for None.
          temperature: Number that logits are divided by before they become probabilities.
        """
        self.model, self.info, self.step, self.not_finite = model, info, step, not_finite
        self.thresholds, self.temperature = thresholds, temperature
        self.params = jax.tree.map(jnp.asarray, params)  # Placed once, and not by each call.
        used = tuple(sorted(model.mixed_modalities))
        self._reader = InputReader(info, used, not_finite, _whole(model))
        self._programs: dict[Any, Any] = {}
        self._strided: dict[int, Classifier] = {}

    def with_stride(self, stride: int) -> Classifier:
        """Makes the classifier whose patches are `stride` times as long along each axis.

        It is made once for each stride; see `sft_jax.modules.stride`.

        Raises:
          ValueError: If the model can't have this stride.
        """
        if stride == 1:
            return self
        if stride not in self._strided:
            model = with_stride(self.model, stride)
            info = dataclasses.replace(self.info, modalities=dict(model.modalities))
            params = resize_params(self.model, self.params, stride)
            self._strided[stride] = Classifier(
                model,
                params,
                info,
                step=self.step,
                not_finite=self.not_finite,
                thresholds=self.thresholds,
                temperature=self.temperature,
            )
        return self._strided[stride]

    def predict(
        self,
        inputs: Mapping[str, Any],
        k: Budget = None,
        *,
        stride: int = 1,
        threshold: float | Mapping[str, float] | None = None,
    ) -> Any:
        """Predicts classes, labels or numbers.

        Args:
          inputs: Raw values of one example or many; see the class.
          k: Number of tokens kept of each modality, of the pools that take any; by default that
            of the training.
          stride: Number of patches along each axis that become one token; see `with_stride`.
          threshold: Probability above which a label is predicted, for the task multi_label: one
            number, or some by the label's name. With two classes the probability above which the
            second is predicted. By default `thresholds`, or 0.5. It is compared with the
            probabilities of `predict_proba`.

        Returns:
          For classes the name of the most probable one; for multi_label a tuple of the names
          of the predicted labels; for regression `[c]` numbers. For many examples a list of
          names or tuples, or `[n, c]` numbers.

        Raises:
          ValueError: If the inputs do not fit, or the model can't have `k` or `stride`.
          NotFiniteError: If an output of the model is NaN or infinite.
        """
        if stride != 1:
            return self.with_stride(stride).predict(inputs, k, threshold=threshold)
        examples, many = self._read(inputs)
        logits = self.logits(examples, k)
        if self.model.task == "regression":
            return logits if many else logits[0]
        names = self.names(self.probabilities(logits), threshold)
        return names if many else names[0]

    def predict_proba(
        self, inputs: Mapping[str, Any], k: Budget = None, *, stride: int = 1
    ) -> np.ndarray:
        """Computes the probability of each class or label, in the order of `info.class_names`.

        It is calibrated if a `temperature` was fitted.

        Args:
          inputs: Raw values of one example or many; see the class.
          k: Number of tokens kept of each modality; see `predict`.
          stride: See `predict`.

        Returns:
          `[c]` float32, or `[n, c]` for many examples. The sum over classes is 1; labels of
          multi_label have a probability each.

        Raises:
          ValueError, NotFiniteError: As `predict` says; also for regression.
        """
        if stride != 1:
            return self.with_stride(stride).predict_proba(inputs, k)
        if self.model.task == "regression":
            raise ValueError("predict_proba: a regression has no probabilities; use predict")
        examples, many = self._read(inputs)
        result = self.probabilities(self.logits(examples, k))
        return result if many else result[0]

    def explain(
        self, inputs: Mapping[str, Any], k: Budget = None, *, stride: int = 1
    ) -> dict[str, Explanation] | list[dict[str, Explanation]]:
        """Shows which parts of the inputs are kept for the fusion, and how salient each is.

        Args:
          inputs: Raw values of one example or many; see the class.
          k: Number of tokens kept of each modality; see `predict`.
          stride: See `predict`.

        Returns:
          An `Explanation` of each modality that the example has; for many examples a list.

        Raises:
          ValueError: If the model has no pool that selects whole tokens; names those that do.
            Also as `predict` says.
        """
        if stride != 1:
            return self.with_stride(stride).explain(inputs, k)
        examples, many = self._read(inputs)
        explanations = self.explanations(examples, k)
        return explanations if many else explanations[0]

    def read(
        self,
        identity: Any,
        values: Mapping[str, Any],
        masks: Mapping[str, np.ndarray] | None = None,
        *,
        as_given: bool = False,
    ) -> Inputs:
        """Checks and standardises one example, for `logits`.

        Args:
          identity: Name of the example in errors.
          values: Modality name to `[*lengths, features]` raw values, without absent modalities.
          masks: Modality name to `[*lengths]` booleans, False where a step is a gap.
          as_given: Whether values have the form of their kind, as in `predict`.

        Raises:
          ValueError: If the values do not fit; names the example.
        """
        return self._reader.read(identity, values, masks, as_given=as_given)

    def logits(self, examples: Iterable[Inputs], k: Budget = None) -> np.ndarray:
        """Computes the outputs of the model, `[n, c]` float32; see `MultimodalClassifier.task`.

        Args:
          examples: Results of `read`, at least one. They are taken a batch at a time.
          k: Number of tokens kept of each modality; see `predict`.

        Raises:
          ValueError, NotFiniteError: As `predict` says.
        """
        _, program = self._program(_logits_program, k)
        outputs: list[np.ndarray] = []
        ids: list[Any] = []
        for part in batched(examples, MAX_BATCH):
            output = program(self.params, *self._reader.batch(part))
            outputs.append(np.asarray(output, np.float32)[: len(part)])
            ids += [example.id for example in part]
        logits = np.concatenate(outputs)
        check_outputs(logits, np.array(ids, object))
        return logits

    def explanations(
        self, examples: Iterable[Inputs], k: Budget = None
    ) -> list[dict[str, Explanation]]:
        """Explains results of `read`, at least one; see `explain`."""
        model, program = self._program(explain_program, k)
        explanations: list[dict[str, Explanation]] = []
        for part in batched(examples, MAX_BATCH):
            arrays = self._reader.batch(part)
            explanations += explain(model, part, program(self.params, *arrays))
        return explanations

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Computes probabilities from the result of `logits`; of a regression, the logits."""
        return probabilities(self.model.task, logits, self.temperature)

    def names(
        self, predicted: np.ndarray, threshold: float | Mapping[str, float] | None = None
    ) -> list[str] | list[tuple[str, ...]]:
        """Names of the predicted classes or labels.

        Args:
          predicted: Result of `probabilities`, `[n, c]`.
          threshold: See `predict`.

        Raises:
          ValueError: If `threshold` names another class or label, or there are more classes.
        """
        names = self.info.class_names
        own = {
            name: float(calibrated(chosen, self.temperature))
            for name, chosen in (self.thresholds or {}).items()
        }
        if isinstance(threshold, Mapping):
            threshold = {**own, **threshold}
        elif threshold is None and own:
            threshold = own
        if self.model.task not in CLASS_TASKS:
            above = predicted > _thresholds(0.5 if threshold is None else threshold, names)
            return [tuple(names[i] for i in np.flatnonzero(row)) for row in above]
        if threshold is None:
            return [names[i] for i in predicted.argmax(axis=-1)]
        if len(names) != 2:
            raise ValueError(f"threshold={threshold} needs labels or 2 classes, not {len(names)}")
        second = predicted[:, 1] > _thresholds(threshold, names[1:])
        return [names[int(above)] for above in second]

    @property
    def compiles(self) -> int:
        """Number of programs that have been compiled."""
        own = sum(program._cache_size() for _, program in self._programs.values())
        return own + sum(strided.compiles for strided in self._strided.values())

    def _read(self, inputs: Mapping[str, Any]) -> tuple[Iterator[Inputs], bool]:
        """Examples, which are made when they are needed, and whether there may be several."""
        examples, many = split_examples(inputs, self.info.modalities)
        read = functools.partial(self._reader.read, as_given=True)
        return (read(i, values) for i, values in enumerate(examples)), many

    def _program(
        self, make: Callable[[MultimodalClassifier], Any], k: Budget
    ) -> tuple[MultimodalClassifier, Any]:
        """Model that keeps `k` tokens and a jitted function of it, made once for each `k`."""
        if k is not None and not isinstance(k, int | np.integer | Mapping):
            raise ValueError(f"k={k!r}; expected an integer, or one for each modality")
        if k == getattr(self.model, "k", None):
            k = None
        key = (make, tuple(sorted(k.items())) if isinstance(k, Mapping) else k)
        if key not in self._programs:
            model = self.model if k is None else with_budget(self.model, k)
            self._programs[key] = (model, make(model))
        return self._programs[key]


def _thresholds(threshold: float | Mapping[str, float], names: Sequence[str]) -> Any:
    if not isinstance(threshold, Mapping):
        return threshold
    if unknown := sorted(set(threshold) - set(names)):
        raise ValueError(f"threshold names {unknown}; the labels are {', '.join(names)}")
    return np.array([threshold.get(name, 0.5) for name in names])


def _logits_program(model: MultimodalClassifier) -> Any:
    return jax.jit(lambda params, *arrays: model.apply({"params": params}, *arrays))


def _whole(model: MultimodalClassifier) -> tuple[str, ...]:
    """Modalities whose padding a model or part of another package might count."""
    own = type(model).__module__.startswith("sft_jax.")
    pool = getattr(model, "pool", None)
    if not own or not (pool is None or (isinstance(pool, str) and pool in POOLS)):
        return tuple(model.modalities)
    return tuple(model.tokenizers or ())
