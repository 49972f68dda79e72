"""Inputs of a classifier: raw values of one example or of many, and batches made of them."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sft_jax import plugins
from sft_jax.data.checks import check_shapes, in_order, real_steps
from sft_jax.data.cleaning import clean
from sft_jax.data.dataset import DatasetInfo, padded_inputs
from sft_jax.data.derived import source_name
from sft_jax.data.kinds import FORMS, given_axes, kept
from sft_jax.data.standardisation import Standardisation
from sft_jax.structs import Kind, ModalitySpec, NotFinite

_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

_AS_KEPT: tuple[Kind, ...] = ("series", "image", "video")
"""The kinds whose examples are given as `[*lengths, features]`."""

MAX_BATCH = 64
"""Largest number of examples that are computed at once."""

_FAR = 3.0
"""Distance from the training data, in deviations, from which on values are suspect."""
_NEAR = 1.0
"""Distance from mean 0 and deviation 1 up to which values look standardised."""


class Inputs(NamedTuple):
    """One example, ready for a batch.

    Attributes:
      id: Name of the example in errors.
      values: Modality name to `[*lengths, features]` float32, standardised and padded to the
        full lengths. A modality that the example lacks is left out.
      masks: Modality name to `[*lengths]` booleans; False marks padding.
      lengths: Modality name to the lengths without padding.
    """

    id: Any
    values: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    lengths: dict[str, tuple[int, ...]]


def split_examples(
    inputs: Mapping[str, Any], modalities: Mapping[str, ModalitySpec]
) -> tuple[list[dict[str, Any]], bool]:
    """Splits what a user gives into single examples.

    Args:
      inputs: Modality name to the values of one example, `[*lengths, features]`, or of many.
        Those are an array with one axis more in front, or a list of arrays. None stands for an
        absent modality, of all examples or in a list of one.
      modalities: Shape of each modality that is known.

    Returns:
      Modality name to values for each example, without absent ones; and whether there were many.

    Raises:
      ValueError: If there is no example, a name is unknown, a number of axes is wrong, or the
        modalities differ in their number of examples.
    """
    if not isinstance(inputs, Mapping):
        raise ValueError(
            f"inputs is {type(inputs).__name__}; expected a mapping from the name of each modality,"
            f" {', '.join(sorted(modalities))}, to its values"
        )
    check_names(inputs, modalities)
    given = {name: values for name, values in inputs.items() if values is not None}
    if not given:
        raise ValueError(f"inputs hold no modality; expected some of {', '.join(modalities)}")
    rows, counts = {}, {}
    for name, values in given.items():
        rows[name], many = _rows(name, values, modalities[name])
        counts[name] = f"{len(rows[name])} examples" if many else "one example without a batch axis"
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"inputs differ in their number of examples: {listed}")
    count = len(next(iter(rows.values())))
    if not count:
        raise ValueError("inputs hold no example: an empty batch has no prediction")
    examples = [
        {name: values[i] for name, values in rows.items() if values[i] is not None}
        for i in range(count)
    ]
    return examples, many


def check_names(names: Iterable[Any], modalities: Mapping[str, ModalitySpec]) -> None:
    """Raises ValueError for the name of a modality that is not known."""
    if unknown := sorted(map(str, set(names) - set(modalities))):
        raise ValueError(
            f"unknown modality {unknown[0]!r}; {plugins.suggest(unknown[0], [*modalities])}"
        )


def _rows(name: str, values: Any, spec: ModalitySpec) -> tuple[Sequence[Any], bool]:
    """Values of each example, and whether an axis or list of examples was given."""
    values = in_order(values)
    if not isinstance(values, np.ndarray | list | tuple):
        values = np.asarray(values)
    if isinstance(values, np.ndarray) and (values.dtype != object or values.ndim != 1):
        axes = given_axes(spec, values.shape)
        if spec.kind == "series" and spec.features == values.ndim == 1:
            return [values], False
        if values.ndim == axes + 1:
            return values, True  # type: ignore[return-value]
        if values.ndim == axes:
            return [values], False
        found = f"an array of shape {list(values.shape)}"
    else:
        first = next((value for value in values if value is not None), None)
        shape = (1,) * len(spec.shape) if first is None else _array(name, in_order(first)).shape
        depth, axes = len(shape), given_axes(spec, shape)
        if first is None or depth == axes:
            return [None if v is None else _array(name, in_order(v)) for v in values], True
        if depth == axes - 1:
            return [_array(name, values)], False
        found = f"a list of arrays of {depth} axes"
    expected = ", ".join([*(f"up to {length}" for length in spec.lengths), str(spec.features)])
    form = f"of shape [{expected}]" if spec.kind in _AS_KEPT else FORMS[spec.kind]
    raise ValueError(
        f"{name} is {found}; expected one example {form}, or many: a list of such, or an array"
        " with one axis more in front"
    )


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asanyarray(values)
    except ValueError as error:
        raise ValueError(f"{name} holds lists that are no array: {error}") from None


@dataclasses.dataclass
class InputReader:
    """Makes batches of raw values, by the functions that training and evaluation use.

    Attributes:
      info: Description of the data that the model was trained on.
      used: Modalities that the model's outputs depend on.
      not_finite: Treatment of numbers that are not finite, as in training.
      whole: Modalities that are always padded to their full length, since the model may count
        positions of padding.
    """

    info: DatasetInfo
    used: tuple[str, ...]
    not_finite: NotFinite = "error"
    whole: Collection[str] = ()

    def __post_init__(self) -> None:
        # Where training data is nearly standardised itself, nothing can be told.
        self._tell = {
            name
            for name in self.used
            if self.info.modalities[name].kind != "events"
            and _distance(0, 1, self.info.statistics[name]) > _FAR
        }

    def read(
        self,
        identity: Any,
        values: Mapping[str, Any],
        masks: Mapping[str, np.ndarray] | None = None,
        *,
        as_given: bool = False,
    ) -> Inputs:
        """Checks, cleans, standardises and pads one example.

        Args:
          identity: Name of the example in errors.
          values: Modality name to `[*lengths, features]` integers or floats.
          masks: Modality name to `[*lengths]` booleans, for modalities with gaps.
          as_given: Whether values have the form of their kind, `sft_jax.data.kinds`.

        Raises:
          ValueError: If it has no modality that the model uses, or a shape does not fit. Also if a
            number is not finite and the run was not trained with such.
        """
        check_names(values, self.info.modalities)
        if as_given:
            values = self._kept(identity, values)
        sources = {source_name(r) for n, r in self.info.derived.items() if n in self.used}
        present = {
            name: array
            for name, array in values.items()
            if name in sources.union(self.used) and np.shape(array)[:1] != (0,)
        }
        record = self._cleaned({"id": identity, "inputs": present, "masks": masks or {}})
        inputs = {name: array for name, array in record["inputs"].items() if len(array)}
        if not inputs:
            raise ValueError(
                f"example {identity!r} has no modality; the model reads {', '.join(self.used)}"
            )
        padded, real = padded_inputs(self.info, {**record, "inputs": inputs})
        self._warn_of_standardised(identity, inputs)
        added = [n for n in self.info.derived if n not in inputs and real[n].any()]
        own = [name for name in (*inputs, *added) if name in self.used]
        return Inputs(
            identity,
            {name: padded[name] for name in own},
            {name: real[name] for name in own},
            {name: np.shape(inputs.get(name, padded[name]))[:-1] for name in own},
        )

    def _kept(self, identity: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Converts the values of an example by the kinds of their modalities."""
        try:
            return {
                name: kept(
                    name,
                    _array(name, array),
                    self.info.modalities[name].kind,
                    self.info.vocabularies.get(name),
                )
                for name, array in values.items()
            }
        except ValueError as error:
            raise ValueError(f"example {identity!r}: {error}") from None

    def batch(
        self, examples: Sequence[Inputs]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Stacks examples, at most `MAX_BATCH`, in a shape that few others differ from.

        The number of examples and the first length of each modality are rounded up to powers of
        two, the length to at most the modality's. A model then is compiled for few shapes.

        Returns:
          `[b, *lengths, features]` float32 and `[b, *lengths]` masks by modality. The first
          examples are those given; copies of the first fill up the batch. A modality that no
          example has is left out.
        """
        filling = [examples[0]] * (_power_of_two(len(examples)) - len(examples))
        filled = [*examples, *filling]
        inputs, masks = {}, {}
        for name in self.used:
            lengths = [example.lengths[name][0] for example in examples if name in example.values]
            if not lengths:
                continue
            full, *rest = self.info.modalities[name].shape
            length = full if name in self.whole else min(_power_of_two(max(lengths)), full)
            values = inputs[name] = np.zeros((len(filled), length, *rest), np.float32)
            mask = masks[name] = np.zeros(values.shape[:-1], bool)
            for i, example in enumerate(filled):
                if name in example.values:
                    values[i] = example.values[name][:length]
                    mask[i] = example.masks[name][:length]
        return inputs, masks

    def _cleaned(self, record: dict[str, Any]) -> dict[str, Any]:
        """Record without numbers that are not finite, if training left them out or replaced them.

        The mean that the policy `mean` puts in is that of the statistics.
        """
        if self.not_finite == "error":
            return record
        shapes = {name: spec.shape for name, spec in self.info.modalities.items()}
        check_shapes(record["id"], record["inputs"], shapes)
        inputs, masks = {}, {}
        for name in record["inputs"]:
            means = np.asarray(self.info.statistics[name].mean)
            values, real = real_steps(record, name)
            inputs[name], masks[name], _ = clean(values, self.not_finite, means, real)
        return {"id": record["id"], "inputs": inputs, "masks": masks}

    def _warn_of_standardised(self, identity: Any, inputs: Mapping[str, Any]) -> None:
        for name in self._tell & inputs.keys():
            flat = np.reshape(inputs[name], (-1, np.shape(inputs[name])[-1]))
            mean, std = flat.mean(axis=0, dtype=np.float64), flat.std(axis=0, dtype=np.float64)
            own = self.info.statistics[name]
            if _distance(mean, std, own) > _FAR and _spread(mean, std) < _NEAR:
                self._tell.discard(name)  # Once is enough.
                _LOGGER.warning(
                    "example %r: %s has mean %.3g and deviation %.3g, those of the training data"
                    " are %.3g and %.3g: it looks standardised already, and is standardised once"
                    " more. Give raw values",
                    identity, name, np.mean(mean), np.mean(std), np.mean(own.mean),
                    np.mean(own.std),
                )  # fmt: skip


def _distance(mean: Any, std: Any, own: Standardisation) -> float:
    """Typical distance of values from the training data, over the features."""
    scale = np.asarray(own.std)
    return _spread((mean - np.asarray(own.mean)) / scale, std / scale)


def _spread(mean: Any, std: Any) -> float:
    """Typical distance of mean and deviation from 0 and 1, over the features."""
    return float(np.median(np.abs(mean) + np.abs(np.log(np.maximum(std, 1e-12)))))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields the items in lists of a size; the last may be shorter."""
    waiting = iter(items)
    while part := [*itertools.islice(waiting, size)]:
        yield part


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << (number - 1).bit_length()
