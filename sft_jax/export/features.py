"""Features of models, and the formats that can hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, get_args

import jax.numpy as jnp

from sft_jax import plugins
from sft_jax.modules import MODELS
from sft_jax.modules.attention import pattern_for
from sft_jax.modules.sparse_pooling import NoAttention
from sft_jax.ops.attention.block_sparse import BlockSparsePattern
from sft_jax.ops.attention.windowed import WindowPattern
from sft_jax.ops.pool import POOLS
from sft_jax.structs import IDS, PATCHED, Kind, Readout, Saliency, Task

ALL: Mapping[str, tuple[str, ...]] = {
    "model": (*MODELS, "other"),
    "pool": (*POOLS, "other"),
    "saliency": get_args(Saliency),
    "readout": get_args(Readout),
    "task": get_args(Task),
    "axes": ("1", "2", "3"),
    "attention": ("dense", "windowed", "block_sparse", "none"),
    "tokens": ("patches", "columns", "ids", "module"),
    "dtype": ("float32", "bfloat16"),
    "windows": ("adaptive", "authors"),
    "blocks": ("all", "some"),
}
"""Features of a model with their values. `other` is an object of another package, `axes` the
number of axes of a modality. The tokens of a vector are `columns`, those of tokens and text `ids`;
`module` is a tokenizer of the user. With `authors` a model has the fixed windows of the authors'
code, or repeats one of its defects. With `some` it computes some of its blocks
(`sft_jax.modules.depth`)."""

_TOKENS: Mapping[Kind, str] = {
    **dict.fromkeys(PATCHED, "patches"),
    "vector": "columns",
    **dict.fromkeys(IDS, "ids"),
    "events": "events",
}

_AUTHORS = ("reference_windows", "reference_fusion_layer", "faithful")


@dataclasses.dataclass(frozen=True)
class Exporter:
    """One format, and the models that it takes.

    Attributes:
      write: Import path of the function that writes it (`sft_jax.export`).
      read: Import path of a function from a path to a `Written`; empty if Python can't run it.
      ending: Ending of the names of its files; empty if it writes a folder.
      extra: Extra of this package that the functions need; empty if they need none.
      takes: Feature of `ALL` to its values that the format takes; all of a feature left out.
      quantizes: Whether it takes `quantize="int8"`.
      any_k: Whether `k` is chosen when the file is run. Otherwise it is fixed in the file.
      shows_examples: Whether `write` takes a `dataset`, whose test split the file shows.
    """

    write: str
    read: str = ""
    ending: str = ""
    extra: str = ""
    takes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    quantizes: bool = False
    any_k: bool = False
    shows_examples: bool = False

    def problems(self, own: Mapping[str, frozenset[str]]) -> list[str]:
        """Lists the features of a model that the format does not take."""
        return [
            f"{feature}={value} (only {', '.join(self.takes[feature])})"
            for feature, values in own.items()
            for value in sorted(values - {*self.takes.get(feature, values)})
        ]

    def check_quantize(self, format: str, quantize: str | None) -> None:
        """Raises ValueError unless the format has weights of this kind."""
        allowed = ("int8",) if self.quantizes else ()
        if quantize is not None and quantize not in allowed:
            raise ValueError(
                f"quantize={quantize!r} is not possible with --format={format}; allowed:"
                f" {', '.join(allowed) or 'none, leave it out'}"
            )

    def check_ending(self, format: str, path: Any) -> None:
        """Raises ValueError for a file whose name has another ending than those of the format."""
        if not str(path).endswith(self.ending):
            raise ValueError(
                f"{path}: the name of a file of --format={format} ends with {self.ending}"
            )

    def load(self, function: str, format: str) -> Callable[..., Any]:
        """Imports `write` or `read`, and with it the packages of the format.

        Raises:
          ModuleNotFoundError: If one is not installed; names the extra.
        """
        try:
            return plugins.load(getattr(self, function), f"--format={format}")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"--format={format} needs the package {error.name}:"
                f" pip install 'sft_jax[{self.extra}]'"
            ) from error


def features(model: Any) -> dict[str, frozenset[str]]:
    """Finds the features of a model by the names of `ALL`; a number of axes may be any."""
    names = {path.partition(":")[2]: name for name, path in MODELS.items()}
    ours = type(model).__module__.startswith("sft_jax.")
    specs = [model.modalities[name] for name in model.mixed_modalities]
    own_tokenizers = getattr(model, "tokenizers", None) or {}
    own = {
        "model": {names.get(type(model).__name__, "other") if ours else "other"},
        "task": {model.task},
        "axes": {str(len(spec.lengths)) for spec in specs},
        "attention": _patterns(model),
        "tokens": {
            "module" if name in own_tokenizers else _TOKENS[model.modalities[name].kind]
            for name in model.mixed_modalities
        },
        "dtype": {str(jnp.dtype(getattr(model, "dtype", None) or "float32"))},
        "windows": {
            "authors" if any(getattr(model, name, None) for name in _AUTHORS) else "adaptive"
        },
        "blocks": {"some" if getattr(model, "layers", None) else "all"},
    }
    if hasattr(model, "pool"):
        own["pool"] = {model.pool if model.pool in POOLS else "other"}
        own["saliency"] = {model.saliency}
        own["readout"] = {model.readout}
    return {name: frozenset(values) for name, values in own.items()}


def _patterns(model: Any) -> set[str]:
    """Names of the attention patterns of all modalities; a short modality may be dense."""
    names = {
        WindowPattern: "windowed",
        BlockSparsePattern: "block_sparse",
        NoAttention: "none",
        type(None): "dense",
    }
    given = [getattr(model, f"{where}_pattern", None) for where in ("unimodal", "pre_pooling")]
    return {
        names[type(pattern_for(pattern, spec.num_tokens))]
        for pattern in given
        for spec in model.modalities.values()
    }
