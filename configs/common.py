"""What the config files share."""

from __future__ import annotations

from typing import Any


def parse_arg(arg: str | None, **defaults: Any) -> dict[str, Any]:
    """Reads the part of `--config=FILE:ARG` after the colon, `key=value,key=value`.

    Args:
      arg: the text after the colon, if there is one.
      **defaults: the keys that are known; each value is read as the type of its default.

    Raises:
      ValueError: for an unknown key or a value of the wrong type.
    """
    values = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        key, separator, text = item.partition("=")
        if not separator or key not in defaults:
            raise ValueError(
                f"config argument {item!r}: expected KEY=VALUE with a key of {sorted(defaults)}"
            )
        kind = type(defaults[key])
        try:
            values[key] = kind(text)
        except ValueError:
            raise ValueError(
                f"config argument {item!r}: expected a value of type {kind.__name__}"
            ) from None
    return values
