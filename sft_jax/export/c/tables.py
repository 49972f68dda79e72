"""Numbers and tables of a model as C."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sft_jax.data.standardisation import Standardisation
from sft_jax.export.c.folding import Attention, Block, Folded, Layer, Modality
from sft_jax.structs import ModalitySpec

_A_LINE = 8
_LARGEST_INT8 = 127


class Tables:
    """Text of constant arrays and tables, and the size of their numbers.

    Attributes:
      lines: Lines of C.
      constant_bytes: Size of the numbers, without the tables that point to them.
    """

    def __init__(self, *, int8: bool, axes: int) -> None:
        """Makes empty tables.

        Args:
          int8: Whether kernels have 8 bits and a scale for each output.
          axes: Largest number of axes of a modality.
        """
        self.lines: list[str] = []
        self.constant_bytes = 0
        self._int8 = int8
        self._axes = axes

    def add_model(
        self,
        folded: Folded,
        specs: Mapping[str, ModalitySpec],
        statistics: Mapping[str, Standardisation],
        kept: Mapping[str, int],
    ) -> None:
        """Adds the tables that `parts` names: `modalities`, `fused_blocks`, `classifier`.

        Args:
          folded: Parameters.
          specs: Shape of each modality.
          statistics: Statistics that each modality is standardised by.
          kept: Number of tokens kept of each modality by default.
        """
        rows = [
            self._modality(f"m{i}", own, specs[name], statistics[name], kept[name])
            for i, (name, own) in enumerate(folded.modalities.items())
        ]
        self._table("modality", "modalities", rows)
        blocks = [self._block(f"fused_{i}", block) for i, block in enumerate(folded.fused)]
        self._blocks("fused_blocks", blocks)
        self.lines.append(
            f"static const layer classifier = {self._layer('head', folded.classifier)};"
        )
        for name in ("fresh_cls", "thresholds", "gaps"):
            if (values := getattr(folded, name)) is not None:
                self._floats(name, values)
        if (readout := folded.readout) is not None:
            self._floats("readout_query", readout.query)
            parts = [self._layer(f"readout_{h}", part) for h, part in enumerate(readout.values)]
            self._table("layer", "readout_values", parts)
            out = self._layer("readout_result", readout.out)
            self.lines.append(f"static const layer readout_out = {out};")

    def _modality(
        self,
        name: str,
        own: Modality,
        spec: ModalitySpec,
        statistics: Standardisation,
        kept: int,
    ) -> str:
        mean = np.asarray(statistics.mean)
        high = mean.astype(np.float32)
        arrays = {
            "mean": high,
            "mean_rest": mean - high,  # A large offset keeps all its digits.
            "deviation": np.asarray(statistics.std),
            "cls": own.cls,
            "position": own.position,
        }
        blocks = [self._block(f"{name}_{i}", block) for i, block in enumerate(own.blocks)]
        counts = [-(-n // p) for n, p in zip(spec.lengths, spec.patch_sizes, strict=True)]
        fields: dict[str, Any] = {
            "features": spec.features,
            "tokens": spec.num_tokens,
            "positions": int(np.prod(spec.patch_sizes)),
            "length": self._sizes(spec.lengths),
            "size": self._sizes(spec.patch_sizes),
            "count": self._sizes(counts),
            **{key: self._floats(f"{name}_{key}", values) for key, values in arrays.items()},
            "projection": self._layer(f"{name}_projection", own.projection),
            "blocks": self._blocks(f"{name}_blocks", blocks),
            "pooling": self._attention(f"{name}_pooling", own.pooling),
            "k": kept,
        }
        return _struct(fields)

    def _sizes(self, sizes: Sequence[int]) -> str:
        """Sizes along each axis; axes that a modality lacks come last, and have size 1."""
        return "{" + ", ".join(map(str, [*sizes, *[1] * (self._axes - len(sizes))])) + "}"

    def _block(self, name: str, block: Block) -> str:
        return _struct(
            {
                "mixing": self._attention(name, block.attention),
                "mlp_in": self._layer(f"{name}_mlp_in", block.mlp_in),
                "mlp_out": self._layer(f"{name}_mlp_out", block.mlp_out),
            }
        )

    def _attention(self, name: str, attention: Attention) -> str:
        layers = ("query", "key_value", "out")
        return _struct(
            {key: self._layer(f"{name}_{key}", getattr(attention, key)) for key in layers}
        )

    def _layer(self, name: str, layer: Layer) -> str:
        kernel = layer.kernel
        fields = {}
        if self._int8:
            # A column of zeros needs a scale that is not 0.
            scale = np.maximum(np.abs(kernel).max(axis=0) / _LARGEST_INT8, np.finfo("f4").tiny)
            fields["scale"] = self._floats(f"{name}_scale", scale)
            rounded = np.rint(kernel / scale.astype(np.float32)).astype(np.int8)
            fields["kernel"] = self._array(f"{name}_kernel", rounded, "signed char")
        else:
            fields["kernel"] = self._floats(f"{name}_kernel", kernel)
        bias = layer.bias
        fields["bias"] = "0" if bias is None else self._floats(f"{name}_bias", bias)
        return _struct(fields)

    def _floats(self, name: str, values: np.ndarray) -> str:
        return self._array(name, values.astype(np.float32), "float")

    def _array(self, name: str, values: np.ndarray, kind: str) -> str:
        """Adds an array and returns its name."""
        if not np.isfinite(values).all():
            raise ValueError(f"parameter {name} holds a number that is not finite as float32")
        self.constant_bytes += values.nbytes
        suffix = "f" if kind == "float" else ""
        texts = [text + suffix for text in values.reshape(-1).astype(str)]
        lines = [", ".join(texts[i : i + _A_LINE]) for i in range(0, len(texts), _A_LINE)]
        self.lines.append(f"static const {kind} {name}[{len(texts)}] = {{")
        self.lines += [f"    {line}," for line in lines]
        self.lines.append("};")
        return name

    def _table(self, kind: str, name: str, rows: Sequence[str]) -> str:
        self.lines.append(f"static const {kind} {name}[{len(rows)}] = {{")
        self.lines += [f"    {row}," for row in rows]
        self.lines.append("};")
        return name

    def _blocks(self, name: str, rows: Sequence[str]) -> str:
        """Adds a table of blocks; C has no arrays without elements."""
        if rows:
            return self._table("block", name, rows)
        self.lines.append(f"#define {name} ((const block *)0)")
        return name


def _struct(fields: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f".{name} = {value}" for name, value in fields.items()) + "}"
