"""Variants of an experiment, each compiled once and trained with several seeds side by side.

Trains as train.py does, on the same batches in the same order, but in one process. The
parameters of the epoch of best validation, for each seed its own, are evaluated on the test
split, once.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.summaries import environment, summary, write
from sft_jax import version
from sft_jax.config import ExperimentConfig
from sft_jax.data.dataset import Dataset, Example
from sft_jax.data.pipeline import eval_batches, train_iterator
from sft_jax.modules.factory import build_model
from sft_jax.ops.losses import cross_entropy
from sft_jax.profile import flops
from sft_jax.structs import Batch
from sft_jax.training import assembly, optim, state, step


class Variant:
    """One model, compiled once to be trained with any seed."""

    def __init__(self, config: ExperimentConfig, dataset: Dataset) -> None:
        """Builds what train.py builds, and compiles it."""
        if config.optim.schedule == "plateau":
            raise ValueError("optim.schedule='plateau' is not supported here")
        info = dataset.info
        self.config, self.dataset = config, dataset
        self.model = build_model(config.model, info.modalities, len(info.class_names))
        self.plan = assembly.Plan.from_config(config, info.num_examples["train"])
        per_epoch, steps = self.plan.steps_per_epoch, self.plan.total_steps
        schedule = optim.make_schedule(config.optim, per_epoch, steps)
        self.optimizer = optim.make_optimizer(config.optim, schedule)

        # The whole split: a step takes its examples by position.
        self._examples = jax.device_put(next(iter(self._batches("train", whole=True))))
        self._valid, self._test = (list(self._batches(split)) for split in ("valid", "test"))
        # With the seed as an argument. All before the first call, as the seeds' threads
        # would each compile.
        seed = np.int32(0)
        self._create = jax.jit(self._new_state).lower(seed).compile()
        start = self._create(seed)
        positions = np.zeros(config.train.batch_size, np.int32)
        train = jax.jit(self._train_step, donate_argnums=0)
        self._train = train.lower(start, seed, positions, self._examples).compile()
        evaluate = jax.jit(self._eval_step)
        self._evaluate = evaluate.lower(start.eval_params, self._valid[0]).compile()

    def run(self, seed: int) -> dict[str, Any]:
        """Trains with one seed; returns the metrics of its best epoch."""
        traced = np.int32(seed)
        metric = self.config.train.best_metric
        sign = -1 if metric == "loss" else 1
        now = self._create(traced)
        best: dict[str, Any] = {metric: -sign * np.inf}
        batches = self._positions(seed)
        for number in range(1, self.plan.total_steps + 1):
            batch, _ = next(batches)
            now, _ = self._train(now, traced, batch.labels, self._examples)
            if number not in self.plan.evaluate_at:
                continue
            # A step that is not finite leaves its state as it was, the count included.
            if int(now.step) != number:
                raise FloatingPointError(f"seed {seed}: not finite by step {number}")
            valid = self._metrics(now.eval_params, self._valid)
            if sign * valid[metric] > sign * best[metric]:
                # Fetched: the next step takes over the memory of the state.
                best = {**valid, "step": number, "params": jax.device_get(now.eval_params)}
        test = self._metrics(best["params"], self._test)
        return {
            "accuracy": test["accuracy"],
            "valid_accuracy": best["accuracy"],
            "best_step": best["step"],
            "n_examples": self.dataset.info.num_examples["test"],
        }

    def time(self, steps: int) -> float:
        """Seconds that a training step takes, in the mean over some."""
        seed = np.int32(0)
        now = self._create(seed)
        positions = [batch.labels for batch, _ in itertools.islice(self._positions(0), steps + 1)]
        now, _ = self._train(now, seed, positions[0], self._examples)
        jax.block_until_ready(now)
        start = time.perf_counter()
        for some in positions[1:]:
            now, _ = self._train(now, seed, some, self._examples)
        jax.block_until_ready(now)
        return (time.perf_counter() - start) / steps

    def _batches(self, split: str, *, whole: bool = False) -> Iterator[Batch]:
        source = self.dataset.source(split)
        size = len(source) if whole else self.config.train.batch_size
        return (batch for batch, _ in eval_batches(source, size))

    def _positions(self, seed: int) -> Iterator[tuple[Batch, np.ndarray]]:
        """The batches of train.py with nothing in them but, as labels, the positions."""
        count = self.dataset.info.num_examples["train"]
        source = [Example(id="", inputs={}, masks={}, label=i) for i in range(count)]
        return train_iterator(source, self.config.train.batch_size, seed)

    def _new_state(self, seed: jax.Array) -> state.TrainState:
        ema = self.config.train.ema_decay > 0
        return state.make_state(self.model, self.optimizer, seed, ema=ema)

    def _train_step(
        self, now: state.TrainState, seed: jax.Array, positions: jax.Array, examples: Batch
    ) -> tuple[state.TrainState, step.StepMetrics]:
        take = step.make_train_step(
            self.model,
            self.optimizer,
            self.config.train,
            self.config.mixup,
            seed,
            mixup_from=self.plan.mixup_from,
        )
        return take(now, jax.tree.map(lambda array: array[positions], examples))

    def _eval_step(self, params: Any, batch: Batch) -> dict[str, jax.Array]:
        """Sums over the examples."""
        logits = self.model.apply({"params": params}, batch.inputs, batch.masks)
        correct = logits.argmax(axis=-1) == batch.labels
        loss = cross_entropy(logits, batch.labels)
        sums = {"loss": loss, "accuracy": correct, "count": jnp.ones_like(loss)}
        return {name: jnp.sum(values * batch.weights) for name, values in sums.items()}

    def _metrics(self, params: Any, batches: list[Batch]) -> dict[str, float]:
        """The mean loss and the accuracy."""
        sums = [self._evaluate(params, batch) for batch in batches]
        total = {name: sum(float(of[name]) for of in sums) for name in sums[0]}
        return {name: total[name] / total["count"] for name in ("loss", "accuracy")}


def measure(config: ExperimentConfig, dataset: Dataset, seeds: Sequence[int]) -> dict[str, Any]:
    """One row of the table."""
    variant = Variant(config, dataset)
    with ThreadPoolExecutor() as threads:
        results = list(threads.map(variant.run, seeds))
    return {
        "parameters": flops.num_parameters(variant.model),
        "forward_flops": flops.forward_cost(variant.model).flops,
        **summary(results),
        "valid_accuracies": [result["valid_accuracy"] for result in results],
        "valid_accuracy_mean": float(np.mean([result["valid_accuracy"] for result in results])),
        "best_steps": [result["best_step"] for result in results],
    }


def time_steps(
    configs: Mapping[str, ExperimentConfig], dataset: Dataset, *, rounds: int = 5, steps: int = 10
) -> dict[str, float]:
    """Seconds of a training step of each config: the median over rounds through all of them."""
    made = {name: Variant(config, dataset) for name, config in configs.items()}
    seconds = [{name: of.time(steps) for name, of in made.items()} for _ in range(rounds)]
    return {name: float(np.median([of[name] for of in seconds])) for name in made}


def print_table(models: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a Markdown table."""
    print("\n| | test accuracy | valid accuracy | parameters | FLOPs per example |")
    print("| --- | --- | --- | --- | --- |")
    for name, row in models.items():
        accuracy = f"{row['accuracy_mean']:.3f}"
        if row["accuracy_std"] is not None:
            accuracy += f" ± {row['accuracy_std']:.3f}"
        others = ["", "", ""]
        if "parameters" in row:
            others = [
                f"{row['valid_accuracy_mean']:.3f}",
                f"{row['parameters']:,}",
                f"{row['forward_flops']:,}",
            ]
        print("|", " | ".join([name, accuracy, *others]), "|")


def measure_all(
    path: pathlib.Path,
    seeds: list[int],
    arguments: Sequence[str],
    measure_one: Callable[[str], dict[str, Any]],
) -> dict[str, Any]:
    """Measures what is not in a file yet, and writes it there after each variant.

    Args:
      path: of the JSON file; what is in it is not measured again.
      seeds: that all of it is measured with.
      arguments: of the config file, one for each variant.
      measure_one: makes the row of a variant from its argument.

    Raises:
      ValueError: if the file is of other seeds.
    """
    result: dict[str, Any] = {"seeds": seeds, "models": {}}
    if path.exists():
        result = json.loads(path.read_text())
        if result["seeds"] != seeds:
            raise ValueError(f"{path} is of seeds {result['seeds']}, not {seeds}")
    result = {**environment(), **result}
    models = result["models"]
    for argument in arguments:
        if argument in models:
            continue
        print(argument or "default", flush=True)
        start = time.monotonic()
        # Of its own, as others in the file may be of another commit.
        models[argument] = {**measure_one(argument), "code": version.code()}
        write(path, result)
        seconds = time.monotonic() - start
        print(f"  {seconds:.0f} s, test {models[argument]['accuracies']}", flush=True)
    return result
