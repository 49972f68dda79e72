"""Types and metadata of the fields that describe a dataset in a config.

The datasets themselves are in `sft_jax.data.sets`, one entry for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import pydantic
from pydantic import Field

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PatchSizes = dict[str, Count | tuple[Count, ...]]

STRICT = pydantic.ConfigDict(extra="forbid", strict=True)
"""Settings of every section of a config: no unknown keys, no values of another type."""

MAY_CHANGE: Mapping[str, Any] = {"may_change": True}
"""Metadata of a field that does not affect results, so a run may resume with another value."""


def folder_field(*, may_change: bool = True) -> Any:
    """Makes a field for a folder; empty by default.

    A run saves the absolute path of the folder (`sft_jax.config_io.resolved`).

    Args:
      may_change: Whether a run may resume with another folder, such as one that has moved.
    """
    return field(default="", metadata={"may_change": may_change, "folder": True})
