"""Accuracy on the smartwatch exercises, on people never seen in training.

python benchmarks/watch_accuracy.py --runs=runs/accuracy --json=accuracy.json
python benchmarks/watch_accuracy.py --leave_one_out --seeds=0 --runs=runs/loo --json=loo.json

Runs train.py and eval.py as a user would, for each variant (an argument of configs/watch.py) and
seed, and beside them a logistic regression and a random forest on statistics of the same windows.
Runs that exist are not repeated.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.classical import baselines  # noqa: E402
from benchmarks.summaries import environment, summary, write  # noqa: E402
from configs import watch  # noqa: E402
from sft_jax import config_io  # noqa: E402
from sft_jax.data.registry import open_dataset  # noqa: E402

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
_VARIANTS = flags.DEFINE_multi_string("variant", [""], "Argument of configs/watch.py.")
_LEAVE_ONE_OUT = flags.DEFINE_bool("leave_one_out", False, "Test on each person in turn.")
_RUNS = flags.DEFINE_string("runs", None, "Folder of run directories.", required=True)
_JSON = flags.DEFINE_string("json", None, "Where the result goes.", required=True)


def run(argument: str, seed: str) -> dict[str, float]:
    """Trains and evaluates one model; returns its test metrics."""
    workdir = pathlib.Path(_RUNS.value) / f"{argument or 'default'},seed={seed}"
    result = workdir / "eval" / "test.json"
    if not result.exists():
        config = [f"--config=configs/watch.py:{argument}", f"--config.seed={seed}"]
        for command in (["train.py", *config], ["eval.py"]):
            where = f"--workdir={workdir.absolute()}"
            subprocess.run([sys.executable, *command, where], cwd=ROOT, check=True)
    return json.loads(result.read_text())


def main(_: list[str]) -> None:
    """Runs everything and writes the table."""
    people = [f"leave_out={person}" for person in watch.PEOPLE] if _LEAVE_ONE_OUT.value else [""]
    table: dict[str, list[dict[str, float]]] = {}
    for seed in _SEEDS.value:
        for left_out in people:
            for variant in _VARIANTS.value:
                argument = ",".join(filter(None, [variant, left_out]))
                table.setdefault(f"SFT {variant or 'default'}", []).append(run(argument, seed))
            config = config_io.from_mapping(watch.get_config(left_out))
            for name, result in baselines(open_dataset(config.data), int(seed)).items():
                table.setdefault(name, []).append(result)
    result = {
        **environment(),
        "test_people": "each in turn" if _LEAVE_ONE_OUT.value else "8, 9, 10",
        "models": {name: summary(results) for name, results in table.items()},
    }
    write(pathlib.Path(_JSON.value), result)
    for name, values in result["models"].items():
        print(name, values)


if __name__ == "__main__":
    app.run(main)
