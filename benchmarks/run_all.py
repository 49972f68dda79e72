"""Runs suites of benchmarks: each makes one file of results.

python -m benchmarks.run_all --list
python -m benchmarks.run_all --suite=watch --only=growth --results=runs/results

Suites run one after the other, each in a process of its own, so let nothing else run beside those
that measure time. One that fails does not stop the others; the exit status is 1 then. The same
command goes on where it was stopped: a suite that ended is left out while its file is fresh
(`benchmarks.freshness`). With `--again` files are removed first, and all are measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterator

from benchmarks import freshness, harness
from benchmarks.suites import GROUPS, RAW_FILES, SUITES
from sft_jax.runs import storage
from sft_jax.wording import plural


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "--suite",
        action="append",
        choices=GROUPS,
        default=[],
        metavar="GROUP",
        help=f"suites of a group, one of {', '.join(GROUPS)}; may be repeated",
    )
    arguments.add_argument(
        "--only",
        action="append",
        choices=SUITES,
        default=[],
        metavar="SUITE",
        help="one suite; may be repeated; default all, without --suite",
    )
    arguments.add_argument("--again", action="store_true", help="measure suites anew that are done")
    arguments.add_argument("--list", action="store_true", help="print the table of suites")
    arguments.add_argument(
        "--results",
        type=pathlib.Path,
        default=pathlib.Path("runs", "results"),
        help="folder for the files; default runs/results, beside the published benchmarks/results",
    )
    arguments.add_argument("--manual_dir", help="folder with raw files of all datasets")
    return arguments


def chosen(groups: Collection[str], only: Collection[str]) -> list[str]:
    """Names of the suites of groups, and of others by name; all if there are neither."""
    return [
        name
        for name, suite in SUITES.items()
        if suite.group in groups or name in only or not (groups or only)
    ]


def command(name: str, results: pathlib.Path, manual_dir: str | None) -> list[str]:
    """Arguments of the Python interpreter for a suite.

    Args:
      name: Name of the suite.
      results: Folder for its file.
      manual_dir: Folder with the raw files.

    Raises:
      ValueError: If the suite needs raw files, and no folder is named.
    """
    suite = SUITES[name]
    if suite.data in RAW_FILES and not manual_dir:
        raise ValueError(f"{name} needs --manual_dir=FOLDER, with the {suite.data}")
    arguments = [argument.format(manual_dir=manual_dir) for argument in suite.arguments]
    return ["-m", suite.module, *arguments, f"--json={results / name}.json"]


class Done:
    """Suites whose command has ended in a folder of results, by the sha256 of their files."""

    def __init__(self, folder: pathlib.Path) -> None:
        """Reads the record of a folder, `done.json`."""
        self._folder, self._record = folder, folder / "done.json"
        self._files = json.loads(self._record.read_text()) if self._record.exists() else {}

    def add(self, name: str) -> None:
        """Records a suite."""
        self._files[name] = self._digest(name)
        storage.write_whole(self._record, json.dumps(self._files, indent=2) + "\n")

    def has(self, name: str) -> bool:
        """Returns True for a suite that has ended, with a file that is unchanged and fresh."""
        path = self._folder / f"{name}.json"
        if not path.exists() or self._files.get(name) != self._digest(name):
            return False
        return bool(freshness.read_state(path, SUITES[name].scope).fresh)

    def _digest(self, name: str) -> str:
        return hashlib.sha256((self._folder / f"{name}.json").read_bytes()).hexdigest()


def table(results: pathlib.Path | None = None) -> Iterator[str]:
    """Lines of a Markdown table of all suites, with the state of their files in a folder."""
    yield f"| suite | group | command | minutes | data |{' file |' if results else ''}"
    yield "| --- | --- | --- | --- | --- |" + (" --- |" if results else "")
    for name, suite in SUITES.items():
        text = shlex.join(["python", "-m", suite.module, *suite.arguments])
        text = text.replace("'--manual_dir={manual_dir}'", "--manual_dir=FOLDER")
        line = f"| `{name}` | {suite.group} | `{text}` | {suite.minutes} | {suite.data} |"
        if results:
            path, state = results / f"{name}.json", "missing"
            if path.exists():
                state = freshness.read_state(path, suite.scope).word
            line += f" {state} |"
        yield line


def main() -> None:
    """Runs the suites, or lists them."""
    options = parser().parse_args()
    results = options.results.absolute()
    if options.list:
        print("\n".join(table(harness.RESULTS)))
        return
    done, names = Done(results), chosen(options.suite, options.only)
    left = [name for name in names if options.again or not done.has(name)]
    try:
        commands = {name: command(name, results, options.manual_dir) for name in left}
    except ValueError as error:
        parser().error(str(error))
    hours = sum(SUITES[name].minutes for name in left) / 60
    print(f"{len(left)} {plural('suite', len(left))}, about {hours:.1f} hours: {', '.join(left)}")
    print(f"{len(names) - len(left)} are done and fresh in {options.results}", flush=True)
    failed = []
    for name, arguments in commands.items():
        print(shlex.join(["python", *arguments]), flush=True)
        if options.again:
            (results / f"{name}.json").unlink(missing_ok=True)
        if subprocess.run([sys.executable, *arguments], cwd=harness.ROOT).returncode:
            failed.append(name)
        else:
            done.add(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
