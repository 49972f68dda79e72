"""More epochs for a run that has already been trained, and their effect on its schedule."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

from sft_jax.config import ExperimentConfig

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Extension:
    """Extension of a run.

    Attributes:
      before: Number of epochs so far.
      epochs: New number of epochs.
      exact: True if the run ends with the parameters of a run of `epochs` from the start.
      note: Effect on the learning rate.
    """

    before: int
    epochs: int
    exact: bool
    note: str

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return dataclasses.asdict(self)

    def log(self) -> None:
        """Logs the extension, as a warning unless it is exact."""
        level = logging.INFO if self.exact else logging.WARNING
        _logger.log(level, "extended from %d to %d epochs: %s", self.before, self.epochs, self.note)


def extension(old: ExperimentConfig, new: ExperimentConfig) -> Extension | None:
    """Describes an extension; None unless the new config has more epochs.

    Args:
      old: Config of the run so far.
      new: Config of its next start.
    """
    before, epochs = old.train.epochs, new.train.epochs
    if epochs <= before:
        return None
    exact, note = _effect(old, epochs)
    return Extension(before, epochs, exact, note)


def with_epochs(config: ExperimentConfig, epochs: int) -> ExperimentConfig:
    """Makes the config with another number of epochs."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=epochs))


def _effect(config: ExperimentConfig, epochs: int) -> tuple[bool, str]:
    optim, before = config.optim, config.train.epochs
    if optim.schedule == "cosine":
        progress = (before - optim.warmup_epochs) / (epochs - optim.warmup_epochs)
        rate = optim.lr * (1 + math.cos(math.pi * progress)) / 2
        return False, (
            f"the cosine schedule depends on the number of epochs. The remaining steps follow the"
            f" cosine of {epochs} epochs. After epoch {before} its learning rate is {rate:.3g},"
            f" where the cosine of {before} has fallen to 0. The result is not that of a run of"
            f" {epochs} epochs from the start"
        )
    between = before % config.train.evaluate_every_epochs != 0
    if optim.schedule == "plateau" and between:
        return False, (
            f"the plateau schedule depends on the evaluations, and a run of {epochs} epochs from"
            f" the start has none after epoch {before}. The result may differ from it"
        )
    note = (
        f"with the {optim.schedule} schedule the result is that of a run of {epochs} epochs from"
        " the start"
    )
    if between:
        note += f", except that the best checkpoint may be that after epoch {before}"
    return True, note
