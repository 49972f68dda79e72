"""Tables of accuracies, and of other metrics of trained models."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.tables import cost
from benchmarks.tables.results import load, paired, percent, score, table


def accuracies(file: str) -> str:
    """Test accuracy, parameters and MFLOPs of every model of an ablation."""
    models = load(file)["models"]
    timed = any("train_step_seconds" in model for model in models.values())
    header = ["model", "test accuracy", "parameters", "MFLOPs"]
    rows = []
    for name, model in models.items():
        row = [f"`{name}`", score(model)]
        row += [f"{model[key]:,}" for key in ("parameters",) if key in model] or ["—"]
        row += [f"{model[key] / 1e6:.2f}" for key in ("forward_flops",) if key in model] or ["—"]
        if timed:
            seconds = model.get("train_step_seconds")
            row.append(f"{seconds * 1e3:.0f}" if seconds else "—")
        rows.append(row)
    return table([*header, *(["ms per training step"] if timed else [])], rows)


def people(held_out: str, in_turn: str) -> str:
    """Accuracy on people that were held out, and on each person left out in turn."""
    first, second = (load(file)["models"] for file in (held_out, in_turn))
    own = next(iter(first.values()))["n_examples"][0]
    every = sum(next(iter(second.values()))["n_examples"])
    columns = [
        f"people 8 to 10 ({own:,} windows)",
        f"each person in turn ({every:,} windows)",
    ]
    rows = [[f"`{name}`", score(first[name]), score(second[name])] for name in first]
    return table(["", *columns], rows)


def readouts(file: str) -> str:
    """Mean accuracy of each readout with people left out in turn."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, row in load(file)["models"].items():
        groups.setdefault(name.partition(",leave_out=")[0], []).append(row)
    rows = []
    for name, each in groups.items():
        differences = [max(row["accuracies"]) - min(row["accuracies"]) for row in each]
        mean = statistics.fmean(row["accuracy_mean"] for row in each)
        rows.append([f"`{name}`", str(len(each)), f"{mean:.3f}", f"{max(differences):.2f}"])
    header = ["readout", "people left out", "accuracy", "largest difference of two seeds"]
    return table(header, rows)


def windows(file: str) -> str:
    """Accuracy with windowed attention beside exact attention."""
    result = load(file)
    titles = {"watch": "watch, 10 s, a token for each sample", "av_mnist": "AV-MNIST, fine patches"}
    rows = []
    for name, title in titles.items():
        exact, windowed = (result["models"][f"{name}/{kind}"] for kind in ("dense", "windowed"))
        own = result["differences"][name]
        rows.append([
            *(title, ", ".join(map(str, exact["tokens"].values()))),
            *(score(exact), score(windowed)),
            f"{100 * own['mean']:+.1f} ± {100 * own['std']:.1f} points",
            f"{windowed['forward_flops'] / exact['forward_flops']:.2f}",
            f"{exact['n_examples'][0]:,}",
        ])  # fmt: skip
    header = ["", "tokens", "exact", "windows", "windows - exact", "operations", "test examples"]
    return table(header, rows)


def elastic(file: str) -> str:
    """Test accuracy of an elastic model in percent, beside models for one budget or patch size."""
    models = load(file)["models"]
    one, other = (name for name, row in models.items() if "budgets" in row)
    kind = "k" if "k" in models[one]["budgets"][0] else "stride"
    settings = [row[kind] for row in models[one]["budgets"]]
    # Rows of patch sizes are in the order of the strides.
    names = [f"k={k}" for k in settings] if kind == "k" else [n for n in models if n != one]
    values = {
        "one elastic model": _by_budget(models[one]),
        f"trained with `{other}`": _by_budget(models[other]),
        "trained for the column": [models[name]["accuracies"] for name in names],
    }
    first, second, third = values.values()
    rows = [[name, *map(percent, columns)] for name, columns in values.items()]
    rows += [
        [f"elastic minus {row} row, paired", *map(paired, first, columns)]
        for row, columns in {"second": second, "third": third}.items()
    ]
    flops = [f"{row['flops'] / 1e6:.2f}" for row in models[one]["budgets"]]
    return table(["", *(f"{kind} = {s}" for s in settings)], [*rows, ["MFLOPs", *flops]])


def _by_budget(row: dict[str, Any]) -> list[list[float]]:
    return [budget["test"]["values"] for budget in row["budgets"]]


def imbalance(file: str) -> str:
    """Metrics of ways to train on unequal classes, mean and deviation over seeds."""
    ways = load(file)["ways"]
    names = ("roc_auc", "average_precision", "balanced_accuracy", "macro_f1", "brier")
    rows = [
        [
            ", ".join(f"`{field}={value}`" for field, value in own["train"].items()) or "defaults",
            *(f"{own[name]['mean']:.3f} ± {own[name]['std']:.3f}" for name in names),
        ]
        for own in ways.values()
    ]
    return table(["`train`", *(f"`{name}`" for name in names)], rows)


def models(file: str) -> str:
    """Models of the smartwatch by `sft_jax.compare`: the first table of the README."""
    result = load(file)
    rows = []
    # The baseline first.
    for line in sorted(result["lines"], key=lambda line: line["difference"] is not None):
        name = line["name"].removeprefix("model.name=")
        cells = ["", ""]
        if own := line["difference"]:
            bounds = (own["runs"], own["examples"])
            spans = [f"{100 * low:+.1f} to {100 * high:+.1f}" for low, high in bounds]
            cells = [f"{100 * own['mean']:+.1f}", "; ".join(spans)]
        accuracy = f"{100 * line['mean']:.1f} ± {100 * line['std']:.1f}"
        costs = [f"{line['flops'] / 1e6:.2f}", f"{line['milliseconds']:.2f}"]
        rows.append([f"`{name}`", accuracy, *cells, f"{line['parameters']:,}", *costs])
    baseline = result["baseline"].removeprefix("model.name=")
    header = ["model", "test accuracy, %", f"minus `{baseline}`", "95 %: seeds; windows"]
    return table([*header, "parameters", "MFLOPs", "ms"], rows)


def comparison(digits: str, *profiles: str) -> str:
    """SFT beside MBT, in accuracy and cost: the second table of the README.

    Args:
      digits: File of accuracies of AV-MNIST.
      *profiles: Files of `python -m sft_jax.profile`.
    """
    measured = load(digits)["models"]
    rows = []
    for name, label in (("k=4", "SFT"), ("model=mbt", "MBT")):
        model = measured[name]
        step = model["train_step_seconds"]
        cells = [score(model), f"{model['forward_flops'] / 1e6:.2f}", f"{step * 1e3:.0f}", "—"]
        rows.append(["AV-MNIST", label, *cells])
    titles = {"profile_vggsound.json": "VGGSound", "profile_mosei.json": "CMU-MOSEI"}
    for file in profiles:
        profiled = load(file)["models"]
        for name in ("sft", "mbt"):
            rows.append([titles[file], name.upper(), "—", *cost.cells(profiled[name])])
    header = ["data", "model", "test accuracy", "MFLOPs", "ms per training step", "MiB of training"]
    return table(header, rows)
