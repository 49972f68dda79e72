"""Memory that preparing and training on CMU-MOSEI takes at its full size.

python benchmarks/mosei_memory.py --json=benchmarks/results/mosei_memory.json

Makes up a file in the true format (Tsai et al. 2019, not aligned: 500 x 74, 500 x 35 and
50 x 300), of the size of the true one, and uses it in a process whose memory is watched. Needs
16 GB of disk. Anonymous memory is what the process needs; the file is mapped, and its pages in
memory, which count as resident too, can be dropped at any time.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/data")]

import sentiment_pickles  # noqa: E402

from benchmarks.summaries import environment, write  # noqa: E402

_EXAMPLES = flags.DEFINE_list("examples", ["16326", "1871", "4659"], "In train, valid and test.")
_JSON = flags.DEFINE_string("json", None, "Where the result goes.", required=True)

_PROGRAM = """
import json, sys, time, itertools
import jax
import numpy as np
from configs import mosei
from sft_jax import config_io
from sft_jax.data import pipeline, registry
from sft_jax.training import assembly, distributed

def done(phase, **facts):
    print(json.dumps({"phase": phase, **facts}), flush=True)

config = mosei.get_config("size=laptop")
config.data.manual_dir = config.data.data_dir = sys.argv[1]
config = config_io.from_mapping(config)
begin = time.monotonic()
dataset = registry.open_dataset(config.data)
done("prepare", seconds=time.monotonic() - begin, n_examples=dataset.info.num_examples)
begin = time.monotonic()
dataset = registry.open_dataset(config.data)
batches = pipeline.train_iterator(dataset.source("train"), config.train.batch_size, 0)
mesh, info = distributed.make_mesh(devices=jax.devices()[:1]), dataset.info
made = assembly.assemble_model(
    config, info.modalities, len(info.class_names),
    num_examples=info.num_examples["train"], mesh=mesh)
now = made.new_state(0)
for batch, _ in itertools.islice(batches, 5):
    now, metrics = made.step(now, distributed.put_batch(batch, mesh), np.int32(0))
done("train", seconds=time.monotonic() - begin, steps=5, loss=float(metrics.loss))
"""


class _Watch:
    """The most memory of a process until it is asked for."""

    def __init__(self, process: int) -> None:
        self._status = pathlib.Path(f"/proc/{process}/status")
        self._peak = {"RssAnon": 0, "VmRSS": 0}
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while self._status.exists():
            for name, kib in _fields(self._status):
                if name in self._peak:
                    self._peak[name] = max(self._peak[name], kib)
            time.sleep(0.02)

    def take(self) -> dict[str, float]:
        """GiB at the most since the last time."""
        taken, self._peak = self._peak, dict.fromkeys(self._peak, 0)
        return {
            "anonymous_gib": taken["RssAnon"] / 2**20,
            "resident_gib": taken["VmRSS"] / 2**20,
        }


def _fields(status: pathlib.Path) -> Iterator[tuple[str, int]]:
    try:
        text = status.read_text()
    except OSError:  # It has ended.
        return
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if value.strip().endswith("kB"):
            yield name, int(value.split()[0])


def main(_: list[str]) -> None:
    """Measures, writes the result and prints it."""
    counts = dict(zip(("train", "valid", "test"), map(int, _EXAMPLES.value), strict=True))
    result: dict[str, Any] = {**environment(), "phases": []}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "mosei_senti_data_noalign.pkl"
        sentiment_pickles.write(path, "mosei", "mult_noalign", counts)
        result["file_gib"] = path.stat().st_size / 2**30
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, folder],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        watch = _Watch(process.pid)
        assert process.stdout is not None
        for line in process.stdout:
            result["phases"].append({**json.loads(line), **watch.take()})
        if process.wait():
            sys.exit(f"the process ended with {process.returncode}")
        prepared = [of for of in pathlib.Path(folder).rglob("*array_record*") if of.is_file()]
        result["prepared_gib"] = sum(of.stat().st_size for of in prepared) / 2**30
    write(pathlib.Path(_JSON.value), result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    app.run(main)
