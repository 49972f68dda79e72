"""Single figures within a sentence."""

from __future__ import annotations

import functools
import operator

from benchmarks.tables import results


def value(file: str, *arguments: str) -> str:
    """A number of a file.

    Args:
      file: File of results.
      *arguments: Keys that lead to the number, and its format: a format of Python such as `.3f`;
        `.1%` is in percent, and `M` after a format in millions.
    """
    *keys, form = arguments
    number = functools.reduce(_item, keys, results.load(file))
    if form.endswith("%"):
        return f"{100 * number:{form[:-1]}f} %"
    if form.endswith("M"):
        return f"{number / 1e6:{form[:-1]}} million"
    return f"{number:{form}}"


def _item(values: object, key: str) -> object:
    return operator.getitem(values, int(key) if isinstance(values, list) else key)


def source(file: str) -> str:
    """The name of a file, below a picture that is drawn from it."""
    return f"`{file}`"


def printed(file: str, length: str) -> str:
    """Lines that training and evaluation print at their ends, as a block.

    Args:
      file: File of `benchmarks.first_run`.
      length: `short` for the first table of metrics, `whole` for everything from the last epoch on.
    """
    result = results.load(file)
    lines, tables = result["train"], result["eval"]
    if length == "short":
        own = [line for line in lines if line.startswith("done")]
        end = next(number for number, line in enumerate(tables) if line.startswith("└"))
        shown = [*own, "...", *tables[: end + 1]]
    else:
        last = max(number for number, line in enumerate(lines) if line.startswith("epoch"))
        shown = [line for line in lines[last:] if not line.startswith("training ")] + tables
    return "\n".join(["```", *shown, "```"])
