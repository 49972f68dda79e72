"""Speed of the input pipeline beside that of training, and the time spent waiting for input.

python -m benchmarks.throughput --manual_dir=FOLDER --json=benchmarks/results/throughput.json

Training on the processor hides how long the input takes. So the time spent waiting is also measured
beside a step that only sleeps, as one on an accelerator leaves the processor idle.

FOLDER holds the raw files of AV-MNIST. Those of MOSEI and VGGSound are made up, in the true
format and of the true shapes. They are not held in memory, as the true ones would not fit.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import numpy as np

from benchmarks import harness
from benchmarks.assembled import assemble
from benchmarks.mock_data import sentiment_pickles, vggsound_hdf5
from benchmarks.suites import SUITES
from configs import av_mnist, mosei, vggsound, watch
from sft_jax import config_io
from sft_jax.config import ExperimentConfig
from sft_jax.data import dataset as dataset_module
from sft_jax.data import pipeline, registry
from sft_jax.parallel import sharding
from sft_jax.structs import Batch
from sft_jax.training.ahead import BatchIterator, placed_ahead
from sft_jax.training.progress import Progress

DATA = ("watch", "av_mnist", "mosei", "vggsound")
_MADE_UP = ("mosei", "vggsound")


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__, only=DATA)
    arguments.add_argument("--manual_dir", default="", help="folder with the raw files of AV-MNIST")
    arguments.add_argument("--steps", type=int, default=20, help="number of timed steps")
    text = "length of the step that only sleeps; default that of VGGSound on a GPU, roughly"
    arguments.add_argument("--sleep_ms", type=float, default=8.0, help=text)
    return arguments


def measure(config: ExperimentConfig, steps: int, sleep_ms: float) -> dict[str, Any]:
    """Times the pipeline alone, and then training steps fed by it.

    Args:
      config: Experiment.
      steps: Number of timed steps.
      sleep_ms: Length of the step that only sleeps.
    """
    dataset = registry.open_dataset(config.data)
    source, size = dataset.source("train"), config.train.batch_size
    alone = pipeline.train_iterator(source, size, config.seed)
    next(alone)
    start = time.perf_counter()
    for _ in range(steps):
        next(alone)
    seconds = time.perf_counter() - start

    info = dataset.info
    assembled, mesh = assemble(config, info)
    state, seed = assembled.new_state(config.seed), np.int32(config.seed)
    batches = pipeline.train_iterator(source, size, config.seed)
    state, last = assembled.step(state, sharding.put_batch(next(batches)[0], mesh), seed)
    jax.block_until_ready(last)  # Compiled.

    def train(batch: Batch) -> None:
        nonlocal state, last
        # As in the training loop, the last step is read while this one is computed.
        state, metrics = assembled.step(state, batch, seed)
        jax.block_until_ready(last.loss)
        last = metrics

    with placed_ahead(batches, mesh, config.system.batches_ahead) as ready:
        trained, waiting = _fed(ready, train, steps)

        def sleep(batch: Batch) -> None:
            del batch
            time.sleep(sleep_ms / 1e3)

        _fed(ready, sleep, 5)  # More were ready while the processor trained.
        _, waiting_asleep = _fed(ready, sleep, steps)
    return {
        "batch_size": size,
        "example_bytes": info.example_bytes,
        "held_in_memory": isinstance(source, tuple),
        "pipeline_batches_per_second": steps / seconds,
        "train_steps_per_second": steps / trained,
        "share_waiting_for_input": waiting,
        "sleep_ms": sleep_ms,
        "share_waiting_beside_sleep": waiting_asleep,
        "steps": steps,
    }


def _fed(ready: BatchIterator, take: Callable[[Batch], None], steps: int) -> tuple[float, float]:
    """Takes steps; their seconds, and the share of waiting for input, as training reports it."""
    progress, start = Progress(0, steps), time.perf_counter()
    for _ in range(steps):
        batch, _ = progress.wait_for(ready)
        take(batch)
    return time.perf_counter() - start, progress.share()


def make_config(name: str, folder: pathlib.Path, manual_dir: str) -> ExperimentConfig:
    """Makes the config of a dataset, and its files if they are made up.

    Args:
      name: One of `DATA`.
      folder: Folder for made-up files and their prepared form.
      manual_dir: Folder with the raw files of AV-MNIST.
    """
    modules = {"watch": watch, "av_mnist": av_mnist, "mosei": mosei, "vggsound": vggsound}
    values = modules[name].get_config()
    if name == "av_mnist":
        values.data.manual_dir = manual_dir
    if name in _MADE_UP:
        values.data.manual_dir = values.data.data_dir = str(folder)
    if name == "mosei":
        counts = {"train": 480, "valid": 8, "test": 8}
        path = folder / "mosei_senti_data_noalign.pkl"
        sentiment_pickles.write(path, "mosei", "mult_noalign", counts)
    if name == "vggsound":
        vggsound_hdf5.write(folder, classes=10, train=150, test=10)
    return config_io.from_mapping(values)


def main() -> None:
    """Measures each dataset, writes the result and prints a Markdown table."""
    options = parser().parse_args()
    result: dict[str, Any] = {**harness.environment(SUITES["throughput"].scope), "data": {}}
    print("| data | batches/s, pipeline | steps/s, training | waiting for input | beside sleep |")
    print("| --- | --- | --- | --- | --- |")
    for name in options.only or DATA:
        in_memory = 0 if name in _MADE_UP else dataset_module.IN_MEMORY_BYTES
        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.object(dataset_module, "IN_MEMORY_BYTES", in_memory),
        ):
            config = make_config(name, pathlib.Path(folder), options.manual_dir)
            row = result["data"][name] = measure(config, options.steps, options.sleep_ms)
        harness.write(options.json, result)
        print(
            f"| {name} | {row['pipeline_batches_per_second']:.1f}"
            f" | {row['train_steps_per_second']:.2f}"
            f" | {row['share_waiting_for_input']:.2%}"
            f" | {row['share_waiting_beside_sleep']:.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
