"""Objects of other packages, named in a config by their import path."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from typing import Any


def is_import_path(name: str) -> bool:
    """Returns True for a name of the form `package.module:attribute`."""
    module, colon, attribute = name.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def load(path: str, field: str) -> Any:
    """Imports the object at an import path.

    Args:
      path: Import path of the form `package.module:attribute`.
      field: Name of the config field that holds the path, for the error message.

    Raises:
      ValueError: If the path has another form, its module is not installed, or the module lacks
        the attribute. Errors that the module itself raises pass through.
    """
    if not is_import_path(path):
        raise ValueError(f"{field}={path!r} is not an import path such as 'package.module:Name'")
    name, _, attribute = path.partition(":")
    try:
        value: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise  # The module exists, but one of its imports is missing.
        raise ValueError(f"{field}={path!r}: there is no module {error.name!r}") from error
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise ValueError(f"{field}={path!r}: module {name!r} has no attribute {attribute!r}")
        value = getattr(value, part)
    return value


def suggest(wrong: str, known: Sequence[str]) -> str:
    """Makes a hint for an error message: the nearest known name, and all known names."""
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed here: {', '.join(sorted(known)) or 'nothing'}"
