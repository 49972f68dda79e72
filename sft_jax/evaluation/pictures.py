"""What all pictures share: text as it is, fonts that have it, bounded sizes, errors reported."""

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
"""Fonts of this name have nothing else."""


@contextlib.contextmanager
def drawn(path: AnyPath, size: tuple[float, float], texts: Iterable[str] = ()) -> Iterator[Figure]:
    """A figure to draw on, which is written when that is done.

    No text is taken for a formula. One of several processes writes the file.

    Args:
      path: of the picture; its ending says in which format.
      size: width and height in inches.
      texts: what is written in it of names, so that fonts are found that have their characters.
    """
    families, lacking = _families(frozenset("".join(texts)))
    if lacking:
        _logger.warning(
            "no font here has %s%s: %s shows boxes in their place; install one that has, such as"
            " Noto Sans CJK",
            lacking[:20],
            " and more" if len(lacking) > 20 else "",
            path,
        )
    rc = {**_LITERAL, "font.family": families, "savefig.dpi": _DPI}
    with matplotlib.rc_context(rc), warnings.catch_warnings():
        # It is told of above.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:] or "png")
    if jax.process_index() == 0:
        storage.write_whole(path, picture.getvalue())


@contextlib.contextmanager
def reported(path: AnyPath) -> Iterator[None]:
    """Within, an error costs no more than the picture: a warning names it and the cause."""
    try:
        yield
    except Exception as error:
        why = " ".join(str(error).split())
        _logger.warning("picture %s was not drawn: %s: %s", path, type(error).__name__, why)


def check_format(path: str | os.PathLike[str]) -> None:
    """Raises ValueError unless the ending of a path is that of a picture, or it has none."""
    ending = os.path.splitext(path)[1][1:]
    known = Figure().canvas.get_supported_filetypes()
    if ending and ending.lower() not in known:
        raise ValueError(
            f"{os.fspath(path)}: no picture ends in .{ending}; allowed are {', '.join(known)}"
        )


def labels(names: Mapping[int, str], most: int) -> list[str]:
    """Names to stand side by side, each in one line of at most `most` columns.

    Numbers go before those that could not be told apart by what is left or can be drawn of them.

    Args:
      names: number to name.
      most: columns of each, without its number.
    """
    short = [shortened(name, most) for name in names.values()]
    _, lacking = _families(frozenset("".join(short)))
    if len({*short}) == len(short) and not lacking:
        return short
    return [f"{number}: {text}" for number, text in zip(names, short, strict=True)]


def shortened(text: str, most: int) -> str:
    """A text in one line that takes at most `most` columns, if need be without its middle."""
    text = _printable(text)
    if columns(text) <= most:
        return text
    room = max(most - 1, 2)
    head, tail = _fitting(text, -(-2 * room // 3)), _fitting(text[::-1], room // 3)[::-1]
    return f"{head}…{tail}"


def wrapped(text: str, most: int) -> str:
    """A text in lines of at most `most` columns, cut between words where that can be."""
    lines = [""]
    for word in _printable(text).split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if columns(joined) <= most:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        while columns(word) > most:
            lines[-1] = _fitting(word, most)
            word = word[len(lines[-1]) :]
            lines.append("")
        lines[-1] = word
    return "\n".join(lines)


def columns(text: str) -> int:
    """How wide a text is, in Latin letters; characters of East Asia count as two."""
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fitting(text: str, most: int) -> str:
    """As much of the beginning as fits, of one character at least."""
    used = 0
    for i, character in enumerate(text):
        used += _columns(character)
        if used > most and i:
            return text[:i]
    return text


def _printable(text: str) -> str:
    """White space as one space each, and � in place of what no font can have."""
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@functools.lru_cache(maxsize=32)
def _families(characters: frozenset[str]) -> tuple[list[str], str]:
    """The usual fonts, and after them others that have what they lack; and what none has."""
    usual = [*matplotlib.rcParams["font.family"]]
    wanted = {ord(c) for c in characters if c.isprintable() and not c.isspace()}
    path = font_manager.findfont(font_manager.FontProperties(family=usual))
    lacking, others = wanted - _characters(path), []
    candidates = {font.name: _characters(font.fname) for font in _fonts()} if lacking else {}
    while lacking and candidates:
        name = max(candidates, key=lambda name: len(candidates[name] & lacking))
        if not (found := candidates.pop(name) & lacking):
            break
        others.append(name)
        lacking -= found
    return usual + others, "".join(map(chr, sorted(lacking)))


def _fonts() -> list[font_manager.FontEntry]:
    """Upright fonts of ordinary weight, those among them that matplotlib has not seen as yet."""
    manager = font_manager.fontManager
    known = {font.fname for font in manager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            with contextlib.suppress(Exception):  # Of a format that it can't read.
                manager.addfont(path)
    return [
        font
        for font in manager.ttflist
        if font.style == "normal" and font.weight in (400, "normal") and _BOXES not in font.name
    ]


def _characters(path: str) -> set[int]:
    try:
        return {*font_manager.get_font(path).get_charmap()}
    except Exception:  # Whatever is wrong with the file, it is of no use.
        return set()
