"""Pictures of the study: accuracy against cost and strength of a corruption, and kept tokens.

python -m benchmarks.study.pictures --results=benchmarks/results --out=docs/images

The digest of the results is written into each picture, so that a test can tell an old one.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("svg")

from matplotlib import figure, pyplot

from benchmarks import harness
from benchmarks.study import frontier, kept, robustness
from benchmarks.study.sets import SETS, SFT


class Picture(NamedTuple):
    """Picture of results.

    Attributes:
      draw: Function that draws it.
      digest: Digest of the files of results.
    """

    draw: Callable[[], figure.Figure]
    digest: str


def pictures(results: pathlib.Path) -> dict[str, Picture]:
    """Pictures of the results in a folder, by their name.

    Args:
      results: Folder of files of results.
    """
    paths = {name: results / f"study_{name}.json" for name in SETS if "cost" in SETS[name].parts}
    contents = {name: path.read_bytes() for name, path in paths.items() if path.exists()}
    read = {name: json.loads(content) for name, content in contents.items()}
    # A point alone says nothing.
    compared = [name for name, result in read.items() if len([*frontier.relative(result)]) > 1]
    found: dict[str, Picture] = {}
    for name, result in read.items():
        explained = result.get("why", {"rows": {}})["rows"]
        kinds = {
            "frontier": (frontier.draw, name in compared),
            "robustness": (robustness.draw, bool(explained)),
            "kept": (_kept, "kept" in explained.get(SFT, {})),
        }
        for kind, (draw, present) in kinds.items():
            if present:
                own = functools.partial(draw, result)
                found[f"{kind}_{name}"] = Picture(own, digest(contents[name]))
    if compared:
        every = digest(*(contents[name] for name in compared))
        draw_all = functools.partial(frontier.overview, [read[name] for name in compared])
        found["frontier"] = Picture(draw_all, every)
    return found


def _kept(result: Mapping[str, Any]) -> figure.Figure:
    return kept.draw(result["why"]["rows"][SFT]["kept"])


def digest(*contents: bytes) -> str:
    """Computes the digest of files of results that their picture carries."""
    return f"sha256:{hashlib.sha256(b''.join(contents)).hexdigest()}"


def save(picture: Picture, path: pathlib.Path) -> None:
    """Draws a picture and writes it as SVG.

    Args:
      picture: The picture.
      path: File; its name without the ending makes the identifiers in it.
    """
    matplotlib.rcParams["svg.hashsalt"] = path.stem
    drawn = picture.draw()
    drawn.savefig(path, format="svg", metadata={"Date": None, "Description": picture.digest})
    pyplot.close(drawn)


def main() -> None:
    """Draws all pictures."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    images = harness.ROOT / "docs" / "images"
    arguments.add_argument("--results", type=pathlib.Path, default=harness.RESULTS)
    arguments.add_argument("--out", type=pathlib.Path, default=images)
    options = arguments.parse_args()
    for name, picture in pictures(options.results).items():
        path = options.out / f"{name}.svg"
        save(picture, path)
        print(path)


if __name__ == "__main__":
    main()
