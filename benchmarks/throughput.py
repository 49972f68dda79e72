"""How fast batches are made beside how fast they are trained on, and the time spent waiting.

python benchmarks/throughput.py --manual_dir=FOLDER --json=benchmarks/results/throughput.json

FOLDER holds the raw files of AV-MNIST. Those of MOSEI and VGGSound are made up, in the true
format and of the true shapes; as the true ones do not fit, they are not held in memory.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
import time
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/data")]

import sentiment_pickles  # noqa: E402
import vggsound_hdf5  # noqa: E402

from benchmarks.summaries import environment, write  # noqa: E402
from configs import av_mnist, mosei, vggsound, watch  # noqa: E402
from sft_jax import config_io  # noqa: E402
from sft_jax.config import ExperimentConfig  # noqa: E402
from sft_jax.data import dataset as dataset_module  # noqa: E402
from sft_jax.data import pipeline, registry  # noqa: E402
from sft_jax.parallel import sharding  # noqa: E402
from sft_jax.training import assembly  # noqa: E402

_MANUAL_DIR = flags.DEFINE_string("manual_dir", "", "Folder with the raw files of AV-MNIST.")
_JSON = flags.DEFINE_string("json", None, "Where the result goes.", required=True)
_STEPS = flags.DEFINE_integer("steps", 20, "Training steps that are timed.")
_ONLY = flags.DEFINE_list("only", ["watch", "av_mnist", "mosei", "vggsound"], "Which data.")


def measure(config: ExperimentConfig, steps: int) -> dict[str, Any]:
    """Times the pipeline alone, and then training steps fed by it."""
    dataset = registry.open_dataset(config.data)
    source, size = dataset.source("train"), config.train.batch_size
    alone = pipeline.train_iterator(source, size, config.seed)
    next(alone)
    start = time.perf_counter()
    for _ in range(steps):
        next(alone)
    seconds = time.perf_counter() - start

    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    info = dataset.info
    made = assembly.assemble_model(
        config,
        info.modalities,
        len(info.class_names),
        num_examples=info.num_examples["train"],
        mesh=mesh,
    )
    now, seed = made.new_state(config.seed), np.int32(config.seed)
    batches = pipeline.train_iterator(source, size, config.seed)
    batch, _ = next(batches)
    now, last = made.step(now, sharding.put_batch(batch, mesh), seed)
    jax.block_until_ready(last)  # Compiled.
    waited, start = 0.0, time.perf_counter()
    for _ in range(steps):
        begin = time.perf_counter()
        batch, _ = next(batches)
        waited += time.perf_counter() - begin
        # As in the loop, the step before is looked at while this one is computed.
        now, metrics = made.step(now, sharding.put_batch(batch, mesh), seed)
        jax.block_until_ready(last.loss)
        last = metrics
    jax.block_until_ready(last)
    total = time.perf_counter() - start
    return {
        "batch_size": size,
        "example_bytes": info.example_bytes,
        "held_in_memory": isinstance(source, tuple),
        "pipeline_batches_per_second": steps / seconds,
        "train_steps_per_second": steps / total,
        "share_waiting_for_input": waited / total,
        "steps": steps,
    }


def _configs(folder: pathlib.Path) -> dict[str, ml_collections.ConfigDict]:
    made = {
        "watch": watch.get_config(),
        "av_mnist": av_mnist.get_config(),
        "mosei": mosei.get_config(),
        "vggsound": vggsound.get_config(),
    }
    made["av_mnist"].data.manual_dir = _MANUAL_DIR.value
    for name in ("mosei", "vggsound"):
        made[name].data.manual_dir = made[name].data.data_dir = str(folder)
    return {name: made[name] for name in _ONLY.value}


def main(_: list[str]) -> None:
    """Measures each, writes the result and prints a Markdown table."""
    result: dict[str, Any] = {**environment(), "data": {}}
    print("| data | batches/s, pipeline | steps/s, training | waiting for input |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for data, config in _configs(folder).items():
            if data == "mosei":
                counts = {"train": 480, "valid": 8, "test": 8}
                path = folder / "mosei_senti_data_noalign.pkl"
                sentiment_pickles.write(path, "mosei", "mult_noalign", counts)
            if data == "vggsound":
                vggsound_hdf5.write(folder, classes=10, train=150, test=10)
            if data in ("mosei", "vggsound"):
                dataset_module.IN_MEMORY_BYTES = 0
            row = result["data"][data] = measure(config_io.from_mapping(config), _STEPS.value)
            write(pathlib.Path(_JSON.value), result)
            print(
                f"| {data} | {row['pipeline_batches_per_second']:.1f}"
                f" | {row['train_steps_per_second']:.2f}"
                f" | {row['share_waiting_for_input']:.2%} |",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
