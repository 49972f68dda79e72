"""Freshness of files of results, as the pages have it."""

from __future__ import annotations

import functools
import json

from benchmarks import freshness
from benchmarks.suites import SUITES
from benchmarks.tables.results import table


class UnknownStateError(Exception):
    """A file of results whose freshness can't be determined in this checkout."""


@functools.cache
def note(file: str) -> str:
    """Name and commits of a file of results if it is stale, and its stale rows; else empty.

    Raises:
      UnknownStateError: If git lacks its commit.
    """
    result = json.loads((freshness.RESULTS / file).read_text())
    states = freshness.states(result, SUITES[file.removesuffix(".json")].scope)
    for state in states.values():
        if state.fresh is None:
            raise UnknownStateError(f"{file}: {state.reason} ({state.commit})")
    stale = {name: state for name, state in states.items() if not state.fresh}
    if not stale:
        return ""
    commits = ", ".join(dict.fromkeys(state.commit[:7] or "no commit" for state in stale.values()))
    rows = ", ".join(f"`{name}`" for name in stale) if len(stale) < len(states) else ""
    return f"`{file}` ({f'{rows}: ' if rows else ''}{commits})"


def provenance() -> str:
    """The command, the commits and the freshness of every file of results."""
    rows = []
    for path in sorted(freshness.RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        command = result.get("command", "")
        command = command if isinstance(command, str) else " ".join(command)
        commits = dict.fromkeys(
            code["commit"][:7] for code in freshness.codes(result).values() if code
        )
        again = any((code or {}).get("renewed") for code in freshness.codes(result).values())
        word = "stale" if note(path.name) else "renewed" if again else "fresh"
        rows.append([f"`{path.name}`", f"`{command}`", ", ".join(commits) or "—", word])
    return table(["file", "command", "commit", "code"], rows)
