"""Tools for all pictures: literal text, fonts with the needed characters, errors as warnings."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure

from sft_jax.runs import storage
from sft_jax.runs.storage import AnyPath

_logger = logging.getLogger(__name__)

_DPI = 120
_LITERAL: dict[Any, Any] = {
    "text.usetex": False,
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
}
_BOXES = "Last Resort"
"""Name of the fonts that draw a box for every character."""


@contextlib.contextmanager
def drawn(path: AnyPath, size: tuple[float, float], texts: Iterable[str] = ()) -> Iterator[Figure]:
    """Yields a figure to draw on, and writes the picture at the end of the context.

    Text is never parsed as a formula. Only the first of several processes writes the file.

    Args:
      path: Path of the picture. Its ending selects the format.
      size: Width and height in inches.
      texts: Names that will be drawn; fonts with their characters are selected.
    """
    families, lacking = _families(frozenset("".join(texts)))
    if lacking:
        _logger.warning(
            "no font here has %s%s: %s shows boxes in their place; install a font that has them,"
            " such as Noto Sans CJK",
            lacking[:20],
            " and more" if len(lacking) > 20 else "",
            path,
        )
    rc = {**_LITERAL, "font.family": families, "savefig.dpi": _DPI}
    with matplotlib.rc_context(rc), warnings.catch_warnings():
        # The warning above already names these characters.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:] or "png")
    if jax.process_index() == 0:
        storage.write_whole(path, picture.getvalue())


@contextlib.contextmanager
def reported(path: AnyPath) -> Iterator[None]:
    """Turns an error inside the context into a warning that names the picture and the cause."""
    try:
        yield
    except Exception as error:
        cause = " ".join(str(error).split())
        _logger.warning("picture %s was not drawn: %s: %s", path, type(error).__name__, cause)


def check_format(path: str | os.PathLike[str]) -> None:
    """Raises ValueError unless the ending of a path is a picture format."""
    ending = os.path.splitext(path)[1][1:]
    known = Figure().canvas.get_supported_filetypes()
    if ending and ending.lower() not in known:
        raise ValueError(
            f"{os.fspath(path)}: no picture ends in .{ending}; allowed are {', '.join(known)}"
        )


def labels(names: Mapping[int, str], width: int) -> list[str]:
    """Makes the labels of an axis, each in one line.

    If two shortened names are equal, or no font has all their characters, each label begins
    with its number.

    Args:
      names: Number to name.
      width: Largest number of columns of each label, without its number.
    """
    short = [shortened(name, width) for name in names.values()]
    _, lacking = _families(frozenset("".join(short)))
    if len({*short}) == len(short) and not lacking:
        return short
    return [f"{number}: {text}" for number, text in zip(names, short, strict=True)]


def shortened(text: str, width: int) -> str:
    """Shortens text to one line of at most `width` columns; a longer text loses its middle."""
    text = _printable(text)
    if columns(text) <= width:
        return text
    room = max(width - 1, 2)
    head, tail = _prefix(text, -(-2 * room // 3)), _prefix(text[::-1], room // 3)[::-1]
    return f"{head}…{tail}"


def wrapped(text: str, width: int) -> str:
    """Wraps text to lines of at most `width` columns, broken between words where possible."""
    lines = [""]
    for word in _printable(text).split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if columns(joined) <= width:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        while columns(word) > width:
            lines[-1] = _prefix(word, width)
            word = word[len(lines[-1]) :]
            lines.append("")
        lines[-1] = word
    return "\n".join(lines)


def columns(text: str) -> int:
    """Computes the width of a text in Latin letters; East Asian characters count as two."""
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _prefix(text: str, width: int) -> str:
    """Returns the longest prefix of at most `width` columns, but at least one character."""
    used = 0
    for i, character in enumerate(text):
        used += _columns(character)
        if used > width and i:
            return text[:i]
    return text


def _printable(text: str) -> str:
    """Replaces white space by single spaces, and unprintable characters by �."""
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@functools.lru_cache(maxsize=32)
def _families(characters: frozenset[str]) -> tuple[list[str], str]:
    """Names the default fonts, and other fonts with the characters that these lack.

    Also returns the characters that no font has.
    """
    defaults = [*matplotlib.rcParams["font.family"]]
    needed = {ord(c) for c in characters if c.isprintable() and not c.isspace()}
    path = font_manager.findfont(font_manager.FontProperties(family=defaults))
    lacking, others = needed - _characters(path), []
    candidates = {font.name: _characters(font.fname) for font in _fonts()} if lacking else {}
    while lacking and candidates:
        name = max(candidates, key=lambda name: len(candidates[name] & lacking))
        if not (gained := candidates.pop(name) & lacking):
            break
        others.append(name)
        lacking -= gained
    return defaults + others, "".join(map(chr, sorted(lacking)))


def _fonts() -> list[font_manager.FontEntry]:
    """Finds upright fonts of ordinary weight, including those not yet listed by matplotlib."""
    manager = font_manager.fontManager
    known = {font.fname for font in manager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            with contextlib.suppress(Exception):  # matplotlib can't read every format.
                manager.addfont(path)
    return [
        font
        for font in manager.ttflist
        if font.style == "normal" and font.weight in (400, "normal") and _BOXES not in font.name
    ]


def _characters(path: str) -> set[int]:
    try:
        return {*font_manager.get_font(path).get_charmap()}
    except Exception:  # A font file that can't be read counts as empty.
        return set()


def tidy(axes: Any) -> None:
    """Draws a grid below the values, and no frame above them or on their right."""
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
