"""Tables of runs that were interrupted."""

from __future__ import annotations

from benchmarks.tables.results import load, table


def kills(file: str) -> str:
    """Moments of interruption and final losses, for each way of interrupting."""
    rows = []
    for way, row in load(file)["rows"].items():
        moments = sorted(row["killed_while"].items(), key=lambda item: -item[1])
        rows.append(
            [
                way,
                str(row["kills"]),
                ", ".join(f"{activity} {number}" for activity, number in moments),
                f"{row['steps']:,}",
                f"{row['parameter_differences']} / {row['compared_arrays']}",
                str(row["repeated_examples"] + row["missed_examples"]),
            ]
        )
    lost = ["arrays that differ", "examples missed or repeated"]
    return table(["interrupted by", "times", "while", "steps", *lost], rows)
