"""Files of results, and forms that all tables share."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import freshness


def load(file: str) -> Any:
    """A file of `benchmarks/results` as JSON values."""
    return json.loads((freshness.RESULTS / file).read_text())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a vertical bar in a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(str(c).replace('|', '&#124;') for c in line)} |" for line in lines
    )


def spread(values: dict[str, Any], digits: int = 2) -> str:
    """Median and range; files name the ends `range`, or `least` and `most`, or `min` and `max`."""
    ends = values.get("range") or [
        next(values[name] for name in names if name in values)
        for names in (("least", "min"), ("most", "max"))
    ]
    return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(values["median"], *ends, d=digits)


def percent(values: Sequence[float]) -> str:
    """Mean and sample deviation in percent; the value alone if there is one."""
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def paired(values: Sequence[float], others: Sequence[float]) -> str:
    """Mean and range of paired differences, in points."""
    each = [100 * (value - other) for value, other in zip(values, others, strict=True)]
    return f"{statistics.fmean(each):+.1f} ({min(each):+.1f} to {max(each):+.1f})"
