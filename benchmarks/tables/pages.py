"""Parts of README and docs that are made from files of results, and their marks when stale.

A page holds `<!-- results: PART ARGUMENTS -->`, the text of the part, and `<!-- end -->`. A part on
lines of its own is a table; one within a line is a value.
"""

from __future__ import annotations

import os
import pathlib
import re
import shlex
from collections.abc import Callable, Iterator

from benchmarks import freshness
from benchmarks.tables import cost, reliability, study, topologies, values
from benchmarks.tables.provenance import note, provenance

ROOT = freshness.ROOT
PARTS: dict[str, Callable[..., str]] = {
    "accelerator": cost.accelerator,
    "against_torch": cost.against_torch,
    "attention": cost.attention,
    "compilation": cost.compilation,
    "corrupted": study.corrupted,
    "costs": cost.costs,
    "diagnosis": study.diagnosis,
    "divided": topologies.divided,
    "edge": cost.edge,
    "elastic_step": cost.elastic_step,
    "equality": cost.equality,
    "exported": cost.exported,
    "first_prediction": cost.first_prediction,
    "growth": cost.growth,
    "imbalance": study.imbalance,
    "kills": reliability.kills,
    "left_out": study.left_out,
    "mosei_memory": cost.mosei_memory,
    "printed": values.printed,
    "provenance": provenance,
    "settings": study.settings,
    "study": study.study,
    "summary": study.summary,
    "sizes": topologies.sizes,
    "source": values.source,
    "throughput": cost.throughput,
    "topologies": topologies.topologies,
    "value": values.value,
}
"""Function of each part, called with the arguments of the marker; files of results end in .json."""

MARKER = re.compile(r"(<!-- results: (.+?) -->)(.*?)(<!-- end -->)", re.DOTALL)


def pages() -> list[pathlib.Path]:
    """README and all pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(page: pathlib.Path) -> str:
    """The text of a page with its parts made anew.

    Raises:
      UnknownStateError: See `provenance.note`.
      ValueError: If a marker has no end, an unknown part, or begins a line within a paragraph.
    """
    text = page.read_text()
    markers = (text.count("<!-- results:"), text.count("<!-- end -->"), len(MARKER.findall(text)))
    if len(set(markers)) > 1:
        raise ValueError(f"{page}: a part of results has no <!-- end -->")
    folder = os.path.relpath(ROOT / "docs", page.parent)
    link = os.path.normpath(f"{folder}/results.md") + "#provenance"

    def fill(match: re.Match[str]) -> str:
        begin, command, old, end = match.groups()
        whole_line = old.startswith("\n")
        if not whole_line and text[: match.start()].endswith("\n"):
            raise ValueError(f"{page}: {begin} begins a line, which would then not be Markdown")
        return begin + part(command, link, whole_line=whole_line) + end

    return MARKER.sub(fill, text)


def part(command: str, link: str, *, whole_line: bool) -> str:
    """A table with the reasons for which it is stale, or a value with a mark.

    Args:
      command: Name and arguments of the part.
      link: Link to the list of files and their states.
      whole_line: True for a table, False for a value within a line.
    """
    name, *arguments = shlex.split(command)
    if name not in PARTS:
        raise ValueError(f"<!-- results: {command} -->: no part {name!r}; there are {[*PARTS]}")
    text = PARTS[name](*arguments)
    notes = [*filter(None, map(note, (word for word in arguments if word.endswith(".json"))))]
    if not whole_line:
        return f"{text}[†]({link})" if notes else text
    if notes:
        text = text.replace("| ", "| † ", 1)
        text += f"\n\n† Made by [older code]({link}): {', '.join(notes)}."
    return f"\n\n{text}\n\n"


def differing() -> Iterator[tuple[pathlib.Path, str]]:
    """Pages that differ from the files of results, with the text that they should have."""
    for page in pages():
        if (text := filled(page)) != page.read_text():
            yield page, text
