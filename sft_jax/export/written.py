"""Files that were exported: their metadata, and how they are run."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sft_jax import version
from sft_jax.data.dataset import DatasetInfo
from sft_jax.modules.budget import with_budget
from sft_jax.ops.pool import find_pool
from sft_jax.structs import ModalitySpec, NotFinite

FORMAT_VERSION = 1
"""Version of the exported files. A change that older readers would misread raises it."""

Arrays = Mapping[str, Any]


class ExportedFileError(ValueError):
    """A file that was not exported in this format, or by another version."""


class Classifier(Protocol):
    """A trained model, as `sft_jax.load` gives it.

    Attributes:
      model: Flax module of `sft_jax.modules`.
      params: Parameters of the module.
      info: Description of the data: shapes, statistics and names.
      not_finite: Treatment of NaN and infinite inputs in training. A file only names it.
      thresholds: Thresholds of probabilities by name, if some were chosen.
      temperature: Temperature of the probabilities, 1 unless one was fitted. Files name it alone.
    """

    @property
    def model(self) -> Any:
        """Module."""

    @property
    def params(self) -> Any:
        """Parameters."""

    @property
    def info(self) -> DatasetInfo:
        """Description of the data."""

    @property
    def not_finite(self) -> NotFinite:
        """Treatment of NaN."""

    @property
    def thresholds(self) -> Mapping[str, float] | None:
        """Thresholds."""

    @property
    def temperature(self) -> float:
        """Temperature."""


@dataclasses.dataclass(frozen=True)
class Bundle:
    """The simplest classifier; see `Classifier`."""

    model: Any
    params: Any
    info: DatasetInfo
    not_finite: NotFinite = "error"
    thresholds: Mapping[str, float] | None = None
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True)
class Written:
    """An exported file that can be run.

    Attributes:
      path: File or folder.
      metadata: Description of the file; see `metadata`.
      run: Function from raw inputs, masks and `k` by modality to `[b, c]` outputs. Inputs
        and masks are those of `metadata["inputs"]`, in their full shapes, without those that the
        file is to compute. `k` is None where the model has none.
      sizes: Figures of the file by name, such as bytes of memory that it needs.
    """

    path: pathlib.Path
    metadata: Mapping[str, Any]
    run: Callable[[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, int] | None], Any]
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def info(self) -> DatasetInfo:
        """Description of the data that the model was trained on."""
        return DatasetInfo.from_json(self.metadata["dataset"])

    def predict(
        self, inputs: Arrays, masks: Arrays | None = None, k: int | Mapping[str, int] | None = None
    ) -> np.ndarray:
        """Computes the outputs by the file itself.

        Args:
          inputs: Raw `[b, *lengths, features]` numbers by modality, not standardised. A modality
            whose entry is missing or None is absent, or computed if the metadata says so. Lengths
            may be less than the full ones.
          masks: `[b, *lengths]` booleans, False for padding; all real by default.
          k: Number of tokens kept, for all modalities or by name; by default the model's.

        Returns:
          `[b, c]` float32 probabilities of classes or labels; for regression the numbers.

        Raises:
          ValueError: If a name, shape or `k` is wrong.
        """
        values, real = filled(self.info.modalities, inputs, masks or {})
        lacking = {n for n in self.metadata.get("computed", ()) if inputs.get(n) is None}
        names = [n for n in self.metadata["inputs"] if n not in lacking]
        own_values, own_masks = ({n: a[n] for n in names} for a in (values, real))
        return np.asarray(self.run(own_values, own_masks, self._budget(k)), np.float32)

    def _budget(self, k: int | Mapping[str, int] | None) -> dict[str, int] | None:
        own, most = self.metadata["k"], self.metadata["k_most"]
        if k is None:
            return own
        wanted = dict(k) if isinstance(k, Mapping) else dict.fromkeys(own or {}, k)
        if own is None or (most is None and wanted != own):
            fixed = "has no k" if own is None else f"was exported with k={own}, which is fixed"
            raise ValueError(f"k={k}: {self.path} {fixed}")
        if most is None:
            return own
        whole = all(isinstance(kept, int | np.integer) for kept in wanted.values())
        if (
            not whole
            or set(wanted) != set(most)
            or any(not 0 <= wanted[n] <= most[n] for n in most)
        ):
            raise ValueError(f"k={k}: {self.path} takes whole numbers from 0 to {most}")
        return wanted


def filled(
    modalities: Mapping[str, ModalitySpec], inputs: Arrays, masks: Arrays
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Pads inputs and masks to their full shapes, and adds absent modalities as masked zeros.

    Raises:
      ValueError: If a name or shape is wrong, or there is no input at all.
    """
    if unknown := sorted({*inputs, *masks} - set(modalities)):
        raise ValueError(f"unknown modality {unknown}, known are {sorted(modalities)}")
    given = {name: _array(name, array) for name, array in inputs.items() if array is not None}
    for name, array in given.items():
        if array.dtype.kind not in "biuf" or not array.ndim:
            found = array.dtype if array.ndim else "a single number"
            raise ValueError(f"{name}: expected an array of numbers, got {found}")
    counts = {len(array) for array in given.values()}
    if len(counts) != 1:
        raise ValueError(f"expected inputs of one batch size, got {sorted(counts) or 'no input'}")
    (count,) = counts
    values, real = {}, {}
    for name, spec in sorted(modalities.items()):
        values[name] = np.zeros((count, *spec.shape), np.float32)
        real[name] = np.zeros((count, *spec.lengths), bool)
        if name not in given:
            continue
        array = given[name]
        mask = _array(f"mask of {name}", masks.get(name, np.ones(array.shape[:-1], bool)))
        fits = array.ndim == len(spec.shape) + 1 and array.shape[-1] == spec.features
        if not fits or any(a > b for a, b in zip(array.shape[1:], spec.shape, strict=True)):
            expected = f"[batch, {', '.join(map(str, spec.shape))}] at most"
            raise ValueError(f"{name}: expected {expected}, got {list(array.shape)}")
        if mask.dtype != bool or mask.shape != array.shape[:-1]:
            raise ValueError(
                f"mask of {name}: expected booleans {list(array.shape[:-1])}, got {mask.dtype}"
                f" {list(mask.shape)}"
            )
        within = tuple(slice(size) for size in mask.shape)
        values[name][within], real[name][within] = array, mask
    return values, real


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(
            f"{name}: the examples have unlike shapes; pad them to one length, and give masks"
        ) from None


def with_k(classifier: Classifier, k: int | Mapping[str, int] | None) -> Classifier:
    """Classifier that keeps another number of tokens; the same one for None.

    Raises:
      ValueError: If an exported pool has parameters for one `k` alone, or as
        `sft_jax.modules.budget.with_budget` says.
    """
    model = classifier.model
    if k is None or k == getattr(model, "k", None):
        return classifier
    changed = with_budget(model, k)
    if find_pool(model.pool).module is not None:
        raise ValueError(f"k={k}: a file with pool={model.pool!r} is for k={model.k} alone")
    own = classifier
    return Bundle(changed, own.params, own.info, own.not_finite, own.thresholds, own.temperature)


def metadata(
    classifier: Classifier, format: str, *, any_k: bool = False, computed: Sequence[str] = ()
) -> dict[str, Any]:
    """Describes an exported file, as JSON values.

    Args:
      classifier: Model that was exported, with the `k` of the file.
      format: Name of the format.
      any_k: Whether `k` is chosen when the file is run.
      computed: Names of inputs that the file computes from others.

    Returns:
      * `format` and `format_version`;
      * `sft_jax`, the version of the package, and `code`, the value of `sft_jax.version.code`;
      * `task`, `model` (name of its class), `pool` and `readout`;
      * `dataset`, the value of `DatasetInfo.to_json`;
      * `not_finite`, the treatment of NaN and infinite inputs in training;
      * `inputs`, the names of the modalities that the outputs depend on;
      * `computed`, the names of those that the file computes unless they are given, if any;
      * `k` by modality, None for a model without;
      * `k_most`, the largest `k` by modality, None where it is fixed;
      * `thresholds` by name, if some were chosen on validation data. The outputs are probabilities
        all the same; whoever decides by them compares them with these;
      * `temperature`, if one was fitted on validation data. The outputs are those at temperature 1.
    """
    model = classifier.model
    has_k = hasattr(model, "k") and find_pool(model.pool).uses_k
    k = {name: int(kept) for name, kept in sorted(model.kept_tokens().items())} if has_k else None
    free = any_k and k is not None and find_pool(model.pool).module is None
    return {
        "format": format,
        "format_version": FORMAT_VERSION,
        "sft_jax": version.__version__,
        "code": version.code(),
        "task": model.task,
        "model": type(model).__name__,
        "pool": str(getattr(model, "pool", "")),
        "saliency": getattr(model, "saliency", ""),
        "readout": getattr(model, "readout", ""),
        "dataset": classifier.info.to_json(),
        "not_finite": classifier.not_finite,
        "inputs": sorted(model.mixed_modalities),
        **({"computed": [*computed]} if computed else {}),
        "k": k,
        "k_most": {n: model.modalities[n].num_tokens for n in sorted(k)} if k and free else None,
        **({"thresholds": dict(classifier.thresholds)} if classifier.thresholds else {}),
        **({"temperature": classifier.temperature} if classifier.temperature != 1 else {}),
    }


def read_metadata(text: str | bytes | None, format: str, path: Any) -> Mapping[str, Any]:
    """Reads the metadata of a file, if this version of the package can read the file.

    Args:
      text: Metadata as JSON; None if the file has none.
      format: Name of the format.
      path: Path of the file, for errors.

    Raises:
      ExportedFileError: If the file is of another format or version, or has no metadata.
    """
    try:
        values = json.loads(text or "null")
    except ValueError as error:
        raise ExportedFileError(f"{path}: its metadata is damaged: {error}") from None
    if not isinstance(values, Mapping) or values.get("format") != format:
        found = (
            f"was exported as {values['format']}"
            if isinstance(values, Mapping) and "format" in values
            else "holds no metadata of an export"
        )
        raise ExportedFileError(f"{path} {found}; expected a file of --format={format}")
    if values.get("format_version") != FORMAT_VERSION:
        raise ExportedFileError(
            f"{path} is of format version {values.get('format_version')}, written by sft_jax"
            f" {values.get('sft_jax')}; this is sft_jax {version.__version__}, which reads version"
            f" {FORMAT_VERSION}. Export it again, or install that version"
        )
    return values
