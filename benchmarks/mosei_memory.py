"""Memory of preparing and training on CMU-MOSEI at its full size.

python -m benchmarks.mosei_memory --json=benchmarks/results/mosei_memory.json

Makes up a file in the true format (Tsai et al. 2019, not aligned: 500 x 74, 500 x 35 and
50 x 300), of the size of the true one. A process whose memory is watched prepares and reads it.
Needs 16 GB of disk. Anonymous memory is the process's own. The file is mapped: its resident pages
count as resident memory too, but the system can drop them at any time.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import threading
import time
from typing import Any

from benchmarks import harness
from benchmarks.mock_data import sentiment_pickles
from benchmarks.suites import SUITES
from sft_jax.profile.isolated import IsolatedFunction

PHASES = ("prepare", "train")


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__)
    arguments.add_argument(
        "--examples",
        type=harness.numbers,
        default=[16326, 1871, 4659],
        help="number in train, valid and test, comma-separated",
    )
    return arguments


class _Watch:
    """Watches the peak memory of a process."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._peak = {"RssAnon": 0, "VmRSS": 0}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            try:
                status = harness.process_status(self._process)
            except OSError:  # The process has ended.
                return
            for name, peak in self._peak.items():  # A process that ends has no memory.
                self._peak[name] = max(peak, int(status.get(name, 0)))
            time.sleep(0.02)

    def take(self) -> dict[str, float]:
        """Returns the peaks in GiB since the last call."""
        peak, self._peak = self._peak, dict.fromkeys(self._peak, 0)
        return {
            "anonymous_gib": peak["RssAnon"] / 2**20,
            "resident_gib": peak["VmRSS"] / 2**20,
        }


def main() -> None:
    """Measures, writes the result and prints it."""
    options = parser().parse_args()
    counts = dict(zip(("train", "valid", "test"), options.examples, strict=True))
    result: dict[str, Any] = {**harness.environment(SUITES["mosei_memory"].scope), "phases": []}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        path = folder / "mosei_senti_data_noalign.pkl"
        sentiment_pickles.write(path, "mosei", "mult_noalign", counts)
        result["file_gib"] = path.stat().st_size / 2**30
        with IsolatedFunction("benchmarks.mosei_memory_side:run_phase") as run_phase:
            watch = _Watch(run_phase.pid)
            for phase in PHASES:
                facts = run_phase({"phase": phase, "folder": name})
                result["phases"].append({**facts, **watch.take()})
        prepared = [file for file in folder.rglob("*array_record*") if file.is_file()]
        result["prepared_gib"] = sum(file.stat().st_size for file in prepared) / 2**30
    harness.write(options.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
