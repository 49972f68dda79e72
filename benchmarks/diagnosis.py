"""A diagnosis with a known answer: which pools find planted evidence, and what is lost without.

python -m benchmarks.diagnosis --json=FILE [--only=ROW] [--seeds=0,1]

Trains models on `data.name=matching`, whose best possible accuracy is known, and compares test
accuracy with it. It says nothing about real data. Each row is written as soon as it is measured,
and fresh rows of the file are not measured again.

Recall is the share of the planted tokens that a pool keeps, for pools that select whole tokens.
Salient recall is their share among as many tokens of largest saliency, for any pool of `sft`.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from benchmarks import freshness, harness
from benchmarks.suites import SUITES
from benchmarks.variant import Variant
from sft_jax import experiment
from sft_jax.config import ExperimentConfig, ModelConfig
from sft_jax.data import pipeline
from sft_jax.data.dataset import Example
from sft_jax.data.outline import outline
from sft_jax.data.sets.matching.entry import MatchingData
from sft_jax.evaluation.metrics import task_metrics
from sft_jax.evaluation.restored import OpenedRun, restore
from sft_jax.modules.factory import build_model
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.modules.sft import READOUTS
from sft_jax.ops.pool import POOLS
from sft_jax.profile import flops
from sft_jax.runs import storage
from sft_jax.runs.directory import SeedsDirectory

_DENSE = ("concat", "mbt", "late")


_ALONE: dict[str, dict[str, Any]] = {
    "max": {"pool": "max"},
    "random": {"pool": "random"},
    "learned": {"saliency": "learned"},
}
_PAPER: dict[str, dict[str, Any]] = {
    **{
        f"blocks={before}+{after}": {"model.n_pre": before, "model.n_post": after}
        for before, after in ((0, 1), (1, 2), (2, 2))
    },
    **{
        f"readout={name}": {"model.readout": name}
        for name in READOUTS
        if name != ModelConfig().readout
    },
    "mixup=fused": {"mixup.layers": "fused", "mixup.warmup_epochs": 0.0},
}
"""Other settings that the paper varies, beside depth 0+2, the default readout and no mixup."""


def _rows(
    events: int, epochs: int, pools: Mapping[str, Sequence[int]], *, select: bool = False
) -> dict[str, Any]:
    """Rows of a number of events: dense models, all tokens, CLS alone, and pools with each `k`.

    Args:
      events: Number of events.
      epochs: Length of training.
      pools: Numbers of kept tokens by pool.
      select: Whether to add other saliencies, and pools without attention before them.
    """
    models: dict[str, dict[str, Any]] = {name: {"name": name} for name in _DENSE}
    models |= {"none": {"pool": "none"}, "k=0": {"k": 0}}
    models |= {f"{p},k={k}": {"pool": p, "k": k} for p, budgets in pools.items() for k in budgets}
    if select:
        models |= {
            f"{saliency},k={events}": {"saliency": saliency, "k": events}
            for saliency in ("from_cls", "learned")
        }
        # Without attention before pooling, a kept token tells of itself alone.
        models |= {
            f"alone/{name},k={events}": {"pre_pooling_attention": "none", "k": events, **own}
            for name, own in _ALONE.items()
        }
    common = _common(events, epochs)
    return {
        f"events={events}/{name}": common | {f"model.{key}": own[key] for key in own}
        for name, own in models.items()
    }


def _common(events: int, epochs: int) -> dict[str, Any]:
    return {"data.events": events, "train.epochs": epochs}


ROWS: dict[str, dict[str, Any]] = {
    **_rows(2, 3, {"attn_topk": (2,), "random": (2,)}),
    **_rows(
        8,
        8,
        {name: (8,) for name in ("attn_topk", "random", "max", "evit", "token_learner")},
        select=True,
    ),
    **_rows(
        4,
        5,
        {name: (1, 4, 8) if name == "attn_topk" else (4,) for name in POOLS if name != "none"},
        select=True,
    ),
    **{f"events=4/{name}": _common(4, 5) | {"model.k": 4} | own for name, own in _PAPER.items()},
}
"""Changed fields of `configs/matching.py` by the name of the row."""


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    return harness.parser(__doc__, seeds=(0, 1, 2), only=ROWS)


def recall(kept: Int[np.ndarray, "n k"], planted: Int[np.ndarray, "n events"]) -> float:
    """Share of planted tokens that are among the kept ones."""
    return float((planted[:, :, None] == kept[:, None]).any(axis=-1).mean())


def chosen_tokens(
    model: MultimodalClassifier, params: Any, source: Sequence[Example], batch_size: int
) -> dict[str, dict[str, np.ndarray]]:
    """Tokens that a model kept and those that it found salient, by modality.

    Args:
      model: Model.
      params: Its parameters.
      source: Examples.
      batch_size: Number of examples that are computed together.

    Returns:
      For each modality `kept`, the `[n, k]` positions of the pool, and `saliency`, `[n, tokens]`;
      each is left out if the model has none.
    """

    @jax.jit
    def program(inputs: Any, masks: Any) -> dict[str, dict[str, Array]]:
        _, state = model.apply({"params": params}, inputs, masks, mutable=["intermediates"])
        sown = state.get("intermediates", {})
        chosen: dict[str, dict[str, Array]] = {name: {} for name in model.modalities}
        for name, own in chosen.items():
            pooling = sown.get(f"pooling_{name}", {})
            if "saliency" in pooling:
                own["saliency"] = pooling["saliency"][0]
            if "index" in pooling.get("reducer", {}):
                own["kept"] = pooling["reducer"]["index"][0]
        return chosen

    batches = pipeline.eval_batches(source, batch_size)
    parts = [program(batch.inputs, batch.masks) for batch, _ in batches]
    # Copies of an example fill the last batch.
    return jax.tree.map(lambda *own: np.concatenate(own)[: len(source)], *parts)


def recalls(
    chosen: Mapping[str, Mapping[str, np.ndarray]], planted: Mapping[str, np.ndarray]
) -> dict[str, float | None]:
    """Mean recall of the modalities by what the pool kept, and by saliency.

    Args:
      chosen: Result of `chosen_tokens`.
      planted: Modality name to `[n, events]` positions.
    """
    found: dict[str, list[float]] = {"recall": [], "salient_recall": []}
    for name, own in chosen.items():
        if "kept" in own:
            found["recall"].append(recall(own["kept"], planted[name]))
        if "saliency" in own:
            most = np.argsort(-own["saliency"], axis=1)[:, : planted[name].shape[1]]
            found["salient_recall"].append(recall(most, planted[name]))
    return {key: float(np.mean(values)) if values else None for key, values in found.items()}


def measure(config: ExperimentConfig, runs: pathlib.Path) -> dict[str, Any]:
    """Trains a model with each seed, and evaluates its checkpoint of best validation.

    Args:
      config: Experiment on the dataset `matching`, with seeds.
      runs: Folder for the run directories.

    Returns:
      JSON values: test accuracies and recalls by seed with their means, and the best possible
      accuracies. Also the cost of one example, and the seconds of processor time of a run.
    """
    data = config.data
    assert isinstance(data, MatchingData)
    begin = time.process_time()
    experiment.train_seeds(config, runs)
    like: OpenedRun | None = None
    counts, scores, planted = [], [], data.planted("test")
    for run in SeedsDirectory.existing(storage.as_path(runs)).runs.values():
        restored = restore(run, "best", None, like)
        like = restored.run
        predictions = like.evaluator("test", None).predict(restored.params)
        metrics = task_metrics(predictions, like.dataset.info.class_names)
        counts.append(metrics["n_examples"])
        source, size = like.dataset.source("test"), config.train.batch_size
        chosen = chosen_tokens(like.model, restored.params, source, size)
        scores.append({"accuracy": metrics["accuracy"], **recalls(chosen, planted)})
    shapes = outline(data)
    model = build_model(config.model, shapes.modalities, shapes.num_outputs)
    return {
        **harness.summary([score["accuracy"] for score in scores], counts),
        "best_possible": data.best_accuracies(),
        **{name: _mean([score[name] for score in scores]) for name in ("recall", "salient_recall")},
        "parameters": flops.num_parameters(model),
        "forward_flops": flops.forward_cost(model).flops,
        "processor_seconds": (time.process_time() - begin) / len(scores),
    }


def _mean(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Mean and values of a measure; None where the model has none."""
    real = [value for value in values if value is not None]
    return {"mean": float(np.mean(real)), "values": real} if real else None


def print_table(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a Markdown table."""
    print("\n| | test accuracy | best possible | one modality | recall | salient recall | FLOPs |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, row in rows.items():
        best, std = row["best_possible"], row["accuracy_std"]
        spread = "" if std is None else f" ± {std:.3f}"
        shares = [
            f"{row[key]['mean']:.2f}" if row[key] else "" for key in ("recall", "salient_recall")
        ]
        cells = [f"{row['accuracy_mean']:.3f}{spread}", f"{best['both']:.3f}", f"{best['one']:.3f}"]
        print("|", " | ".join([name, *cells, *shares, f"{row['forward_flops']:,}"]), "|")


def main() -> None:
    """Measures the rows that the file lacks, and prints the table."""
    options = parser().parse_args()
    scope = SUITES["diagnosis"].scope
    code = freshness.identity(scope)
    result = harness.read_or_begin(
        options.json, scope, {"suite": "diagnosis", "seeds": list(options.seeds)}, "models"
    )
    rows = result["models"]
    for name in options.only or ROWS:
        known = rows.get(name, {})
        if known.get("changes") == ROWS[name] and freshness.state(known["code"], scope).fresh:
            continue
        print(name, flush=True)
        config = Variant("matching", "", ROWS[name]).experiment()
        with tempfile.TemporaryDirectory() as folder:
            seeded = dataclasses.replace(config, seeds=tuple(options.seeds))
            row = measure(seeded, pathlib.Path(folder) / "runs")
        # The code of each row: rows of one file may be of several commits.
        rows[name] = {"changes": ROWS[name], **row, "code": code}
        result["models"] = rows = {name: rows[name] for name in ROWS if name in rows}
        harness.write(options.json, result)
        print(f"  {row['processor_seconds']:.0f} s a run, {row['accuracies']}", flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()
