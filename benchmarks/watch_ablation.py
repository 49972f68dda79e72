"""The learning table: every pool, model, readout and mixup on the smartwatch exercises.

python benchmarks/watch_ablation.py --json=benchmarks/results/watch_ablation.json
python benchmarks/watch_ablation.py --variant=pool=max,k=2 --variant=model=late --json=some.json

Trains as train.py does, on the same batches in the same order, but in one process: a variant
is compiled once and its seeds are trained side by side. The parameters of the epoch of best
validation, for each seed its own, are evaluated on the test people, once. Unless variants are
named, a logistic regression and a random forest on statistics of the same windows stand beside
them.

The result is written after each variant. Those in the file already are not repeated: remove it
to begin anew.
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
from benchmarks.classical import baselines  # noqa: E402
from benchmarks.summaries import summary, write  # noqa: E402
from configs import watch  # noqa: E402
from sft_jax import config_io  # noqa: E402
from sft_jax.data.registry import open_dataset  # noqa: E402
from sft_jax.modules.sft import READOUTS  # noqa: E402
from sft_jax.ops.pool import POOLS  # noqa: E402

MODELS = (
    "model=late",
    "model=concat",
    "model=unimodal,modality=accelerometer",
    "model=unimodal,modality=gyroscope",
    "model=mbt",
    "model=mult",
)

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
_VARIANTS = flags.DEFINE_multi_string(
    "variant", None, "Argument of configs/watch.py; by default every choice that it has."
)
_JSON = flags.DEFINE_string("json", None, "Where the result goes.", required=True)


def default_variants() -> list[str]:
    """Every pool, and CLS alone; every other model, readout and kind of mixup."""
    return [
        *(f"pool={pool}" for pool in POOLS),
        "k=0",
        *MODELS,
        *(f"readout={readout}" for readout in READOUTS if readout != "sum_cls"),
        *(f"mixup={layers}" for layers in ("within", "fused", "any")),
    ]


def main(_: list[str]) -> None:
    """Measures what is not in the file yet, and prints the table."""
    seeds = [int(seed) for seed in _SEEDS.value]
    path = pathlib.Path(_JSON.value)
    open_data = functools.cache(open_dataset)

    def measure(argument: str) -> dict[str, Any]:
        config = config_io.from_mapping(watch.get_config(argument))
        row = variants.measure(config, open_data(config.data), seeds)
        return {"test_people": config.data.test_people, **row}

    result = variants.measure_all(path, seeds, _VARIANTS.value or default_variants(), measure)
    models = result["models"]
    if _VARIANTS.value is None and "random forest" not in models:
        dataset = open_data(config_io.from_mapping(watch.get_config()).data)
        by_seed = [baselines(dataset, seed) for seed in seeds]
        models |= {name: summary([of[name] for of in by_seed]) for name in by_seed[0]}
        write(path, result)
    variants.print_table(models)


if __name__ == "__main__":
    app.run(main)
