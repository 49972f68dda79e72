"""The table of AV-MNIST: SFT and what it is compared with, and pooled tokens against CLS alone.

python benchmarks/av_mnist_ablation.py --manual_dir=FOLDER --json=benchmarks/results/av_mnist.json

FOLDER holds the raw files; see `python -m sft_jax.data list`. The result is written after each
variant. Those in the file already are not repeated: remove it to begin anew. At the end the
training steps of all variants are timed side by side, of one seed: let nothing else run then.
"""

from __future__ import annotations

import functools
import pathlib
import sys
from typing import Any

from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import variants  # noqa: E402
from benchmarks.summaries import write  # noqa: E402
from configs import av_mnist  # noqa: E402
from sft_jax import config_io  # noqa: E402
from sft_jax.config import ExperimentConfig  # noqa: E402
from sft_jax.data.registry import open_dataset  # noqa: E402

VARIANTS = (
    "model=unimodal,modality=image",
    "model=unimodal,modality=sound",
    "model=late",
    "model=concat",
    "model=mbt",
    "k=1",
    "k=4",
    "k=16",
    "k=0",
    "n_pre=1,n_post=3,k=4",
)

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Seeds.")
_VARIANTS = flags.DEFINE_multi_string(
    "variant", None, "Argument of configs/av_mnist.py; by default those of the table."
)
_BLANKED = flags.DEFINE_float("blanked_share", 0.0, "Share of the image patches to blank.")
_EPOCHS = flags.DEFINE_integer("epochs", None, "Other than in the config.")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", "", "Folder with the raw files.")
_JSON = flags.DEFINE_string("json", None, "Where the result goes.", required=True)


def _config(argument: str) -> ExperimentConfig:
    changed = av_mnist.get_config(argument)
    changed.data.manual_dir = _MANUAL_DIR.value
    changed.data.blanked_share = _BLANKED.value
    changed.train.epochs = _EPOCHS.value or changed.train.epochs
    return config_io.from_mapping(changed)


def main(_: list[str]) -> None:
    """Measures what is not in the file yet, and prints the table."""
    seeds = [int(seed) for seed in _SEEDS.value]
    data = _config("").data
    open_data = functools.cache(lambda: open_dataset(data))

    def measure(argument: str) -> dict[str, Any]:
        return variants.measure(_config(argument), open_data(), seeds)

    path = pathlib.Path(_JSON.value)
    result = variants.measure_all(path, seeds, _VARIANTS.value or VARIANTS, measure)
    models = result["models"]
    seconds = variants.time_steps({name: _config(name) for name in models}, open_data())
    for name, of in seconds.items():
        models[name]["train_step_seconds"] = of
    write(path, result)
    variants.print_table(models)
    print(
        "\n".join(f"{name}: {1000 * of:.1f} ms per training step" for name, of in seconds.items())
    )


if __name__ == "__main__":
    app.run(main)
