"""Types of the fields of a config, with the checks of their values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from sft_jax import plugins
from sft_jax.data_config import Positive
from sft_jax.objective import read_weights
from sft_jax.ops.attention.kernels import kernel_name

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is not a regular expression: {error}") from None
    return value


def _pairs(value: Any) -> Any:
    """Converts a mapping, or the lists of JSON, to a tuple of pairs.

    A ConfigDict takes no mapping, since it has no keys with dots.
    """
    value = [*value.items()] if isinstance(value, Mapping) else value
    if not isinstance(value, list | tuple):
        return value
    return tuple(tuple(pair) if isinstance(pair, list) else pair for pair in value)


def named(table: Iterable[str]) -> AfterValidator:
    """Makes a validator for a name in a table, or for an import path."""

    def check(value: str) -> str:
        if value not in table and not plugins.is_import_path(value):
            raise ValueError(
                f"{value!r} is not one of {', '.join(table)}, nor an import path such as"
                " 'my_package.my_module:Name'"
            )
        return value

    return AfterValidator(check)


RateGroups = Annotated[
    tuple[tuple[Annotated[str, AfterValidator(_pattern)], NonNegative], ...],
    BeforeValidator(_pairs),
]
ClassWeights = Annotated[str | dict[str, Positive], BeforeValidator(read_weights)]
KernelName = Annotated[str, AfterValidator(lambda value: kernel_name(value, "attention_kernel"))]
