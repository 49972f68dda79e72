"""Runs suites of benchmarks: each makes one file of results.

python -m benchmarks.run_all --list
python -m benchmarks.run_all --only=growth --only=watch_ablation --results=runs/results

Suites run one after the other, each in a process of its own, so let nothing else run beside those
that measure time. One that fails does not stop the others; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import harness
from benchmarks.suites import RAW_FILES, SUITES


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "--only", action="append", choices=SUITES, metavar="SUITE", help="may be repeated"
    )
    arguments.add_argument("--list", action="store_true", help="print the table of suites")
    arguments.add_argument(
        "--results",
        type=pathlib.Path,
        default=pathlib.Path("runs", "results"),
        help="folder for the files; default runs/results, beside the published benchmarks/results",
    )
    arguments.add_argument("--manual_dir", help="folder with raw files of all datasets")
    return arguments


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


def table() -> Iterator[str]:
    """Lines of a Markdown table of all suites."""
    yield "| suite | command | minutes | data |"
    yield "| --- | --- | --- | --- |"
    for name, suite in SUITES.items():
        text = shlex.join(["python", "-m", suite.module, *suite.arguments])
        text = text.replace("'--manual_dir={manual_dir}'", "--manual_dir=FOLDER")
        yield f"| `{name}` | `{text}` | {suite.minutes} | {suite.data} |"


def main() -> None:
    """Runs the suites, or lists them."""
    options = parser().parse_args()
    if options.list:
        print("\n".join(table()))
        return
    try:
        commands = {
            name: command(name, options.results.absolute(), options.manual_dir)
            for name in options.only or SUITES
        }
    except ValueError as error:
        parser().error(str(error))
    failed = []
    for name, arguments in commands.items():
        print(shlex.join(["python", *arguments]), flush=True)
        if subprocess.run([sys.executable, *arguments], cwd=harness.ROOT).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
