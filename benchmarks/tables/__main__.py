"""Writes the parts of README and docs that are made from files of results.

python -m benchmarks.tables          # writes the pages that differ from the files
python -m benchmarks.tables --check  # names them; the exit status is 1 if there are any

A part whose file is stale (`benchmarks.freshness`) is marked with a dagger.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.tables import pages
from benchmarks.tables.provenance import UnknownStateError


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--check", action="store_true", help="write nothing")
    return arguments


def main() -> None:
    """Writes or checks the pages."""
    options = parser().parse_args()
    try:
        differing = [*pages.differing()]
    except UnknownStateError as error:
        sys.exit(f"{error}: fetch the history of this repository")
    for page, text in differing:
        print(page.relative_to(pages.ROOT))
        if not options.check:
            page.write_text(text)
    if options.check and differing:
        sys.exit("these pages differ from the files of results: run python -m benchmarks.tables")


if __name__ == "__main__":
    main()
