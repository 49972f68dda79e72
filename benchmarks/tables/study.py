"""Tables of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.study import counts
from benchmarks.study.sets import CLS_ALONE, SETS, SFT
from benchmarks.tables.results import load, paired, percent, table

_ABSENT = "—"
_MILLIONS = {"MFLOPs": counts.FIELD, "all arithmetic": "flops"}
"""Columns of operations, and the field of each."""
_DENSE = ("concat", "late", "mbt", "mult", "mbt, any depth")


def study(file: str, *names: str) -> str:
    """Rows of a set beside SFT: metric, differences with intervals, and cost.

    Args:
      file: Result of `python -m benchmarks.study`.
      *names: Rows to show; all that the file has by default.
    """
    result = load(file)
    metric, cost = result["metric"], result.get("cost", {"rows": {}})["rows"]
    compared = {base for row in result["rows"].values() for base in row.get("differences", ())}
    bases = [base for base in (SFT, CLS_ALONE) if base in compared]
    rows = []
    for name in names or result["rows"]:
        row = result["rows"][name]
        tested = row["test"][metric]["values"]
        rows.append([
            f"`{name}`" if "changes" in row else name,
            percent(tested),
            f"{100 * row['ensemble']:.1f}" if "ensemble" in row else _ABSENT,
            *(_difference(row, base) for base in bases),
            *(_millions(row) if "changes" in row else [_ABSENT] * 2),
            *_measured(cost.get(name)),
        ])  # fmt: skip
    header = [f"row, {sum(_examples(result))} examples", f"{_title(metric)}, %", "ensemble, %"]
    header += [f"minus `{base}`, 95 %" for base in bases]
    return table([*header, *_MILLIONS, "ms a step", "ms an example", "MiB"], rows)


def _millions(line: Mapping[str, Any]) -> list[str]:
    """Millions of operations of a row or setting, one text for each of `_MILLIONS`."""
    return [f"{line[field] / 1e6:.2f}" for field in _MILLIONS.values()]


def _examples(result: Mapping[str, Any]) -> Sequence[int]:
    """Numbers of test examples, of each fold once."""
    counts = result["rows"][SFT]["n_examples"]
    return counts[:: len(result["seeds"])]


def _title(metric: str) -> str:
    return metric.replace("_", " ").replace("roc auc", "AUROC")


def _difference(row: Mapping[str, Any], base: str) -> str:
    own = row.get("differences", {}).get(base)
    if not own:
        return ""
    bounds = "" if own["both"] is None else "{:+.1f} to {:+.1f}".format(*_points(own["both"]))
    return f"{100 * own['mean']:+.1f} ({bounds})"


def _points(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def _measured(cost: Mapping[str, Any] | None) -> list[str]:
    if not cost:
        return [_ABSENT] * 3
    return [
        f"{1e3 * cost['train_step_seconds']['median']:.1f}",
        f"{1e3 * cost['latency_seconds']['median']:.2f}",
        f"{cost['train_peak_rss_bytes']['median'] / 2**20:.0f}",
    ]


def settings(file: str, elastic: str, *others: str) -> str:
    """One model at several budgets, strides or depths, beside models for one each.

    Args:
      file: Result of `python -m benchmarks.study`.
      elastic: Row that was evaluated at several settings.
      *others: Row of each setting, in their order.
    """
    result = load(file)
    metric, rows = result["metric"], result["rows"]
    found = rows[elastic]["settings"]
    kind = next(name for name in ("k", "stride", "depth") if name in found[0])
    own = [line["metrics"][metric]["values"] for line in found]
    lines = [[f"`{elastic}`", *map(percent, own)]]
    if others:
        each = [rows[name]["test"][metric]["values"] for name in others]
        lines.append(["trained for the column", *map(percent, each)])
        lines.append(["difference, paired", *map(paired, own, each)])
    operations = zip(*map(_millions, found), strict=True)
    lines += [[title, *values] for title, values in zip(_MILLIONS, operations, strict=True)]
    return table(["", *(f"{kind} = {line[kind]}" for line in found)], lines)


def corrupted(file: str, kind: str) -> str:
    """Metric of the rows when one modality is corrupted.

    Args:
      file: Result of `python -m benchmarks.study`.
      kind: noise, or missing.
    """
    result = load(file)
    first = next(iter(result["why"]["rows"].values()))["corrupted"]
    columns = [(name, strength) for name, kinds in first.items() for strength in kinds[kind]]
    rows = [
        [
            f"`{name}`",
            *(
                percent(row["corrupted"][one][kind][strength]["values"])
                for one, strength in columns
            ),
        ]
        for name, row in result["why"]["rows"].items()
    ]
    return table([kind, *(f"{name}, {strength}" for name, strength in columns)], rows)


def left_out(file: str) -> str:
    """Agreement of saliency with the effect of leaving a token out, of each seed."""
    seeds = load(file)["why"]["rows"][SFT]["left_out"]
    rows = []
    for modality in seeds[0]:
        for number, seed in enumerate(seeds):
            own = seed[modality]
            cells = [f"{own[name]['mean']:.2f}" for name in ("spearman", "kept", "by_chance")]
            rows.append([modality, str(number), *cells, str(own["n_examples"])])
    header = ["modality", "seed", "rank correlation", "kept of the k that matter most", "by chance"]
    return table([*header, "examples"], rows)


def summary(*files: str) -> str:
    """SFT beside the best dense fusion of each set, which is chosen by its test metric.

    Args:
      *files: Results of `python -m benchmarks.study`.
    """
    rows = []
    for file in files:
        result = load(file)
        metric, own = result["metric"], result["rows"]
        dense = [name for name in _DENSE if name in own]
        best = max(dense, key=lambda name: own[name]["test"][metric]["mean"])
        sft, other, classical = own[SFT], own[best], _best_classical(result)
        rows.append([
            f"{SETS[result['set']].title}, {_title(metric)}",
            percent(sft["test"][metric]["values"]),
            f"{percent(other['test'][metric]['values'])} (`{best}`)",
            _difference(other, SFT),
            classical,
            *(_ratios(result, name) for name in ("mbt", "concat")),
        ])  # fmt: skip
    header = ["data, metric in %", "SFT", "best dense fusion", "minus SFT, 95 %", "classical"]
    header += [f"{name} / SFT: FLOPs, step, example" for name in ("MBT", "concat")]
    return table(header, rows)


def _best_classical(result: Mapping[str, Any]) -> str:
    """The best model without a network, and its metric."""
    metric = result["metric"]
    found = {name: row for name, row in result["rows"].items() if "changes" not in row}
    if not found:
        return _ABSENT
    best = max(found, key=lambda name: found[name]["test"][metric]["mean"])
    return f"{100 * found[best]['test'][metric]['mean']:.1f} ({best})"


def _ratios(result: Mapping[str, Any], name: str) -> str:
    """Operations, time of a training step and time of one example, over those of SFT."""
    rows, cost = result["rows"], result.get("cost", {"rows": {}})["rows"]
    if name not in rows:
        return _ABSENT
    ratios = [rows[name][counts.FIELD] / rows[SFT][counts.FIELD]]
    for key in ("train_step_seconds", "latency_seconds") if {name, SFT} <= {*cost} else ():
        ratios.append(cost[name][key]["median"] / cost[SFT][key]["median"])
    texts = [f"{ratio:.1f}" for ratio in ratios]
    return ", ".join(texts + [_ABSENT] * (3 - len(texts)))


def diagnosis(file: str, events: str) -> str:
    """Accuracy and recall of planted tokens, of the rows of a number of events.

    Args:
      file: Result of `python -m benchmarks.diagnosis`.
      events: Number of events.
    """
    rows = []
    for name, row in load(file)["models"].items():
        group, _, title = name.partition("/")
        if group == f"events={events}":
            best = row["best_possible"]
            recalls = [
                f"{row[key]['mean']:.2f}" if row[key] else _ABSENT
                for key in ("recall", "salient_recall")
            ]
            lines = [f"{100 * best[key]:.1f}" for key in ("both", "one")]
            rows.append([f"`{title}`", percent(row["accuracies"]), *lines, *recalls])
    header = [f"{events} events", "accuracy, %", "best possible", "best of one modality"]
    return table([*header, "planted tokens kept", "planted among the most salient"], rows)


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
