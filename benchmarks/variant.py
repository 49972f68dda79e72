"""An experiment: a config file, its argument, and changed fields."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from sft_jax import config_io
from sft_jax.config import ExperimentConfig


class Variant(NamedTuple):
    """An experiment.

    Attributes:
      config: Name of a file in `configs/`.
      argument: Argument of its `get_config`.
      changes: Changed fields by their dotted name, such as `train.epochs`.
    """

    config: str
    argument: str = ""
    changes: Mapping[str, Any] = {}

    def experiment(self, data_folder: str = "") -> ExperimentConfig:
        """Makes the config.

        Args:
          data_folder: Folder with raw files, for a dataset that is read from some.
        """
        values = importlib.import_module(f"configs.{self.config}").get_config(self.argument)
        if "manual_dir" in values.data:
            values.data.manual_dir = data_folder
        values.update_from_flattened_dict(dict(self.changes))
        return config_io.from_mapping(values)
