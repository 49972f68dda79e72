"""README and docs as the tests read them: blocks of code, commands and tables of names."""

from __future__ import annotations

import pathlib
import re
import shlex
import sys
import textwrap
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
MODULE = "documented"
"""Name of the module that examples run in."""
LANGUAGES = ("python", "bash", "console", "bibtex", "toml", "yaml", "text", "")
"""Languages of the blocks in the pages; one without a language is text."""

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>skip|slow): (?P<reason>.+?) -->\n\n)?"
    r"(?P<indent> *)```(?P<language>.*)\n(?P<code>(?:.*\n)*?)(?P=indent)```$",
    re.MULTILINE,
)
_RESULTS = re.compile(r"<!-- results: .*?<!-- end -->", re.DOTALL)
_NAMES = re.compile(r"<!-- names: (.+) -->\n\n((?:\|.*\n)+)")


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
      language: The word after the fence.
      code: The text.
      mark: `skip` or `slow` for a block with a comment `<!-- MARK: REASON -->` before it.
    """

    language: str
    code: str
    mark: str | None


def pages() -> list[pathlib.Path]:
    """README and all pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def identifier(page: pathlib.Path) -> str:
    """The path of a page from the root, for names of tests."""
    return str(page.relative_to(ROOT))


def blocks(page: pathlib.Path) -> list[Block]:
    """The blocks of a page in order."""
    return [
        Block(match["language"], textwrap.dedent(match["code"]), match["mark"])
        for match in _BLOCK.finditer(page.read_text())
    ]


def run(
    page: pathlib.Path, names: dict[str, Any] | None = None, *, skipped: bool = False
) -> dict[str, Any]:
    """Runs the Python blocks of a page in order, in one namespace and the current folder.

    Args:
      page: The page.
      names: Names that are there before the first block.
      skipped: Whether to run the blocks that are marked `skip` too.

    Returns:
      The namespace.
    """
    module = types.ModuleType(MODULE)
    module.__dict__.update(names or {})
    sys.modules[MODULE] = module  # So that an example can name its own objects by import path.
    for block in blocks(page):
        if block.language == "python" and (skipped or block.mark != "skip"):
            exec(compile(block.code, str(page), "exec"), module.__dict__)
    return module.__dict__


def commands(page: pathlib.Path) -> Iterator[list[str]]:
    """The command lines of a page as lists of words: those of its blocks, and of its sentences.

    A command in a sentence begins with `python` and has a flag. Blocks of the language `console`
    are left out: they need files that the reader writes. Commands of files of results are too.
    """
    text = _RESULTS.sub("", page.read_text())
    lines = [block.code for block in blocks(page) if block.language == "bash"]
    lines += re.findall(r"`(python [^`]* --[^`]+)`", _BLOCK.sub("", text))
    for code in lines:
        for line in code.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def tables_of_names(page: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """Tables after a comment `<!-- names: SOURCES -->`.

    Yields:
      The sources, and the words in backticks of the first column.
    """
    for source, table in _NAMES.findall(page.read_text()):
        rows = [row.split("|")[1] for row in table.splitlines()[2:]]
        yield source, [name for cell in rows for name in re.findall("`(.*?)`", cell)]
