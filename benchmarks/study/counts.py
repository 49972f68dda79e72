"""Operations of the rows of a study: matrix products apart from all other arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sft_jax.compare.rows import Row
from sft_jax.modules.factory import build_model
from sft_jax.profile import flops
from sft_jax.profile.budgets import Setting

FIELD = "matmul_flops"
"""Field of a row, and of each of its settings, beside its `flops`, which count all arithmetic."""


def add(values: dict[str, Any], row: Row) -> None:
    """Adds the operations of matrix products to a row, and to each setting it was evaluated with.

    Args:
      values: JSON values of the row, with the `flops` that its training counted.
      row: Its runs.

    Raises:
      ValueError: If all arithmetic together is not what its training counted.
    """
    config, info = row.config, row.info
    model = build_model(config.model, info.modalities, len(info.class_names))
    for line, own in _lines(values, model):
        cost = flops.forward_cost(own)
        if cost.flops != line["flops"]:
            raise ValueError(
                f"{row.name} counts {cost.flops} operations, and its training counted "
                f"{line['flops']}: train the row again"
            )
        line[FIELD] = cost.matmul_flops


def _lines(values: dict[str, Any], model: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """The row with the model as it was trained, and each setting with its clone."""
    yield values, model
    for line in values.get("settings", ()):
        setting = Setting(line.get("k"), line.get("stride"), line.get("depth"))
        yield line, setting.model(model)
