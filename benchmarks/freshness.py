"""Freshness of figures: a comparison of the code that made them with the code at head.

python -m benchmarks.freshness            # every file of results: fresh or stale
python -m benchmarks.freshness --changed  # and the files of code that changed since

A figure belongs to a scope: files of code that can change it. It is fresh if the scope has the same
digest now as in the code that made it. Comments, docstrings, blank lines and the texts of errors do
not count, nor do files of `NO_NUMBERS`. A result records its digest. An older one names its commit
alone, whose digest is computed from git.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import io
import json
import pathlib
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sft_jax import version

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_FOLDERS = ("sft_jax", "configs", "benchmarks")
_SOURCES = (".py", ".c", ".html", ".js")

_MODEL = (
    *("sft_jax/structs.py", "sft_jax/config.py", "sft_jax/objective.py", "sft_jax/training/"),
    *("sft_jax/ops/", "sft_jax/modules/", "sft_jax/parallel/sharding.py", "configs/common.py"),
)
_DATA = ("sft_jax/data/*.py", "sft_jax/data/sets/*.py")
_ACCURACY = (
    *(*_MODEL, *_DATA, "sft_jax/evaluation/"),
    *("sft_jax/experiment.py", "sft_jax/starting.py", "sft_jax/selection.py"),
)
PARTS: Mapping[str, tuple[str, ...]] = {
    "accuracy": _ACCURACY,
    "comparison": (*_ACCURACY, "sft_jax/compare/", "sft_jax/sweep/"),
    "cost": (*_MODEL, "sft_jax/profile/"),
    "data": _DATA,
    "export": (*_ACCURACY, "sft_jax/export/", "sft_jax/inference/"),
    "runs": (*_ACCURACY, "sft_jax/runs/", "sft_jax/parallel/"),
    "mosei": ("sft_jax/data/sets/sentiment/", "configs/mosei.py"),
}
"""Files of each part of a scope: paths, patterns, and folders with all below them.

Another word is the path of a file or folder, or a dataset: `watch` stands for
`sft_jax/data/sets/watch/` and `configs/watch.py`.
"""

NO_NUMBERS = (
    # What a person reads, and what stops a run: no figure of a run that ends changes with them.
    *(f"sft_jax/data/{n}.py" for n in ("__main__", "card_report", "checks", "doubts")),
    *(f"sft_jax/evaluation/{n}.py" for n in ("pictures", "plots", "probability_plots", "report")),
    *(f"sft_jax/evaluation/{n}.py" for n in ("own_data", "rate_plot", "run_plots")),
    *(f"sft_jax/training/{n}.py" for n in ("progress", "rates", "reporting", "tracing")),
    # The tables of models and datasets by name.
    *("sft_jax/modules/__init__.py", "sft_jax/data/sets/table.py"),
)
"""Files of parts that can't change a number."""


CHANGED = "the code that makes it has changed since"


class State(NamedTuple):
    """Comparison of the code that made a figure with the code at head.

    Attributes:
      fresh: True or False; None if that can't be determined here.
      reason: Reason in words unless it is fresh.
      commit: Commit that made it; empty if it is unknown.
    """

    fresh: bool | None
    reason: str
    commit: str

    @property
    def word(self) -> str:
        """The state as a word."""
        return {True: "fresh", False: "stale", None: "unknown"}[self.fresh]


def essence(source: bytes) -> bytes:
    """Source of Python without what can't change a number; the same for every version of Python."""
    lines = source.splitlines()
    for token in tokenize.tokenize(io.BytesIO(source).readline) if b"#" in source else ():
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1].decode()[:column].encode()
    for row, column, end_row, end_column in sorted(_texts(ast.parse(source)), reverse=True):
        kept = lines[row - 1][:column] + lines[end_row - 1][end_column:]
        lines[row - 1 : end_row] = [kept]
    return b"\n".join(line.rstrip() for line in lines if line.strip())


def _texts(tree: ast.AST) -> Iterator[tuple[int, int, int, int]]:
    """Begin and end of each docstring, and of the arguments of each error that is raised."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name, call = node.exc.func, node.exc
            yield (
                *(name.end_lineno or 0, name.end_col_offset or 0),
                *(call.end_lineno or 0, call.end_col_offset or 0),
            )


@functools.lru_cache(4096)
def _digest(source: bytes, path: str) -> str:
    """Digest of the essence of a file; empty for one that holds nothing but a docstring."""
    text = essence(source) if path.endswith(".py") else source
    return hashlib.sha256(text).hexdigest() if text else ""


def _patterns(scope: str) -> Iterator[str]:
    for name in scope.split():
        if name in PARTS:
            yield from PARTS[name]
        elif "/" in name:
            yield name
        else:
            yield from (f"sft_jax/data/sets/{name}/", f"configs/{name}.py")


@functools.cache
def _matcher(scope: str) -> Callable[[str], bool]:
    """Returns the function that tells whether the file of a path belongs to a scope."""
    patterns = (re.escape(pattern).replace(r"\*", "[^/]*") for pattern in _patterns(scope))
    fits = re.compile("|".join(p + ".*" if p.endswith("/") else p for p in patterns)).fullmatch
    return lambda path: (
        path.endswith(_SOURCES) and path not in NO_NUMBERS and fits(path) is not None
    )


@functools.cache
def sources(scope: str) -> Mapping[str, bytes]:
    """Contents of the files of a scope in this folder of code, by their paths.

    Args:
      scope: Words: names of `PARTS`, datasets, and paths of files or folders (`benchmarks/edge/`).

    Raises:
      ValueError: If a word stands for no file.
    """
    files = [path for folder in _FOLDERS for path in (ROOT / folder).rglob("*.*")]
    paths = {path.relative_to(ROOT).as_posix(): path for path in files}
    for word in scope.split():
        if not any(map(_matcher(word), paths)):
            raise ValueError(f"scope {scope!r}: no file belongs to {word!r}")
    is_in = _matcher(scope)
    return {name: path.read_bytes() for name, path in paths.items() if is_in(name)}


@functools.cache
def sources_at(commit: str, scope: str) -> Mapping[str, bytes] | None:
    """Contents of the files of a scope at a commit; None if git does not have the commit here."""
    return _contents(commit, _matcher(scope))


@functools.cache
def package_digest(commit: str) -> str | None:
    """The `version.code_digest` of a commit; None if git does not have the commit here."""
    package = "sft_jax/"
    files = _contents(commit, lambda path: path.startswith(package))
    if files is None:
        return None
    return version.digest({path.removeprefix(package): own for path, own in files.items()})


def _contents(commit: str, wanted: Callable[[str], bool]) -> dict[str, bytes] | None:
    listed = _git("ls-tree", "-r", "--full-tree", f"{commit}^{{commit}}", "--", *_FOLDERS)
    if listed is None:
        return None
    entries = [line.split(None, 3)[2:] for line in listed.decode().splitlines()]
    blobs = {path: blob for blob, path in entries if wanted(path)}
    content = _git("cat-file", "--batch", text="".join(f"{blob}\n" for blob in blobs.values()))
    if content is None:
        return None
    stream, contents = io.BytesIO(content), {}
    for path in blobs:
        size = int(stream.readline().split()[2])
        contents[path] = stream.read(size)
        stream.read(1)  # The end of the line.
    return contents


def digest(contents: Mapping[str, bytes]) -> str:
    """The sha256 of the paths of files and of what can change a number in them."""
    digests = {path: _digest(source, path) for path, source in contents.items()}
    lines = "".join(f"{path}\0{own}\n" for path, own in sorted(digests.items()) if own)
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def differing(then: Mapping[str, bytes], now: Mapping[str, bytes]) -> Iterator[str]:
    """Paths of files that differ in what can change a number."""
    for path in sorted({*then, *now}, key=lambda path: (path in then and path in now, path)):
        one, other = then.get(path, b""), now.get(path, b"")
        if one != other and _digest(one, path) != _digest(other, path):
            yield path


def _git(*arguments: str, text: str = "") -> bytes | None:
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, input=text.encode(), capture_output=True)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def identity(scope: str) -> dict[str, Any]:
    """Identity of the running code, as `version.code` has it, with the digest of a scope."""
    return {**version.code(), "scope": scope, "scope_digest": digest(sources(scope))}


def renewed(code: Mapping[str, Any], scope: str) -> dict[str, Any]:
    """Identity of a figure that the running code would make again.

    Args:
      code: Value of `identity` or `version.code` when the figure was made.
      scope: Scope of the figure.

    Returns:
      The same with the digest that its scope has now. `made_by` keeps the first one, and
      `renewed` names the commit.
    """
    return {
        **code,
        "scope": scope,
        "scope_digest": digest(sources(scope)),
        "made_by": maker(code),
        "renewed": version.code()["commit"],
    }


def maker(code: Mapping[str, Any]) -> str:
    """Digest of the code that made a figure, renewed or not: of its scope, or of the package."""
    return code.get("made_by") or code.get("scope_digest") or code["digest"]


def state(code: Mapping[str, Any] | None, scope: str) -> State:
    """Compares the code that made a figure with the code at head.

    Args:
      code: Value of `identity` or `version.code` when the figure was made.
      scope: Scope of the figure.
    """
    code = code or {}
    commit, now = code.get("commit") or "", sources(scope)
    if code.get("scope") == scope:
        fresh: bool | None = code["scope_digest"] == digest(now)
        return State(fresh, "" if fresh else CHANGED, commit)
    if not commit:
        return State(False, "it names no commit", "")
    if code.get("dirty"):
        return State(False, "it was made with changes that no commit has", commit)
    if (then := sources_at(commit, scope)) is None:
        return State(None, "git does not have its commit here", commit)
    fresh = not any(differing(then, now))
    return State(fresh, "" if fresh else CHANGED, commit)


def codes(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any] | None]:
    """Code of each row of a result, by name, if rows name theirs; else that of all, named `""`.

    Rows are in `models` or `rows`: a mapping, or a list whose rows may have a `name`. Other parts
    of the result may have a code with a scope of their own. Theirs are named `part NAME`.
    """
    own = {name: part.get("code", {}) for name, part in result.items() if isinstance(part, Mapping)}
    parts = {f"part {name}": code for name, code in own.items() if "scope" in code}
    rows = result.get("models", result.get("rows", {}))
    if isinstance(rows, list):
        rows = {str(row.get("name", number)): row for number, row in enumerate(rows)}
    if any("code" in row for row in rows.values()):
        return {name: row.get("code") for name, row in rows.items()} | parts
    return {"": result.get("code")} | parts


def states(result: Mapping[str, Any], scope: str) -> dict[str, State]:
    """State of each code of a result, by the names of `codes`.

    Args:
      result: The result.
      scope: Scope of its rows.
    """
    return {
        name: state(code, code["scope"] if code and name.startswith("part ") else scope)
        for name, code in codes(result).items()
    }


def worst(each: Mapping[str, State]) -> State:
    """The first state that is stale; without one, the first that is not known; else a fresh one."""
    order = {False: 0, None: 1, True: 2}
    return min(each.values(), key=lambda one: order[one.fresh])


def read_state(path: pathlib.Path, scope: str) -> State:
    """The worst state of a file of results."""
    return worst(states(json.loads(path.read_text()), scope))


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--changed", action="store_true", help="list changed files of code")
    arguments.add_argument("--results", type=pathlib.Path, default=RESULTS, help="folder of files")
    return arguments


def main() -> None:
    """Prints a line for each file of results: its commits, and whether it is fresh."""
    from benchmarks.suites import SUITES  # Which names scopes, in words of this module.

    options = parser().parse_args()
    for name, suite in SUITES.items():
        path = options.results / f"{name}.json"
        if not path.exists():
            print(f"{name:24} missing")
            continue
        each = states(json.loads(path.read_text()), suite.scope)
        one, commits = worst(each), sorted({one.commit for one in each.values()} - {""})
        print(f"{name:24} {one.word:8} {','.join(c[:7] for c in commits):24} {one.reason}")
        for commit in commits if options.changed and not one.fresh else ():
            then = sources_at(commit, suite.scope) or {}
            for file in differing(then, sources(suite.scope)):
                print(f"  since {commit[:7]}: {file}")


if __name__ == "__main__":
    main()
