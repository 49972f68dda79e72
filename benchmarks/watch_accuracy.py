"""Accuracy on the smartwatch exercises, on people never seen in training.

python benchmarks/watch_accuracy.py --runs=runs/accuracy --json=accuracy.json
python benchmarks/watch_accuracy.py --leave_one_out --seeds=0 --runs=runs/loo --json=loo.json

Runs train.py and eval.py as a user would, for each variant (an argument of configs/watch.py) and
seed, and beside them a logistic regression and a random forest on statistics of the same windows.
Runs that exist are not repeated.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import subprocess
import sys

import jax
import numpy as np
from absl import app, flags
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from configs import watch  # noqa: E402
from sft_jax import config_io  # noqa: E402
from sft_jax.data.datasets import open_dataset  # noqa: E402

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


def window_statistics(examples: list) -> np.ndarray:
    """`[examples, 36]` mean, deviation, minimum, maximum and quartiles of each channel."""
    windows = np.stack([np.hstack(list(example["inputs"].values())) for example in examples])
    parts = [windows.mean(1), windows.std(1), windows.min(1), windows.max(1)]
    return np.hstack([*parts, *np.quantile(windows, [0.25, 0.75], axis=1)])


def baselines(argument: str, seed: str) -> dict[str, dict[str, float]]:
    """Test metrics of classical models trained on the same people."""
    dataset = open_dataset(config_io.from_mapping(watch.get_config(argument)).data)
    splits = {split: list(dataset.source(split)) for split in ("train", "test")}
    x = {split: window_statistics(examples) for split, examples in splits.items()}
    y = {split: [example["label"] for example in of] for split, of in splits.items()}
    models = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        "random forest": RandomForestClassifier(500, random_state=int(seed), n_jobs=2),
    }
    return {
        name: {
            "accuracy": float(model.fit(x["train"], y["train"]).score(x["test"], y["test"])),
            "n_examples": len(y["test"]),
        }
        for name, model in models.items()
    }


def summary(results: list[dict[str, float]]) -> dict[str, object]:
    """Mean and sample deviation over runs, with what they are of."""
    accuracies = [result["accuracy"] for result in results]
    return {
        "accuracy_mean": float(np.mean(accuracies)),
        "accuracy_std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        "accuracies": accuracies,
        "n_examples": [result["n_examples"] for result in results],
    }


def main(_: list[str]) -> None:
    """Runs everything and writes the table."""
    people = [f"leave_out={person}" for person in watch.PEOPLE] if _LEAVE_ONE_OUT.value else [""]
    table: dict[str, list[dict[str, float]]] = {}
    for seed in _SEEDS.value:
        for left_out in people:
            for variant in _VARIANTS.value:
                argument = ",".join(filter(None, [variant, left_out]))
                table.setdefault(f"SFT {variant or 'default'}", []).append(run(argument, seed))
            for name, result in baselines(left_out, seed).items():
                table.setdefault(name, []).append(result)
    result = {
        "command": " ".join(sys.argv),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}",
        "jax": jax.__version__,
        "test_people": "each in turn" if _LEAVE_ONE_OUT.value else "8, 9, 10",
        "models": {name: summary(results) for name, results in table.items()},
    }
    path = pathlib.Path(_JSON.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    for name, values in result["models"].items():
        print(name, values)


if __name__ == "__main__":
    app.run(main)
