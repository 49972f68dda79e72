"""Tables of the study, from a result that is made up."""

import json

import pytest

from benchmarks import freshness
from benchmarks.tables import study


def _summary(*values):
    return {"values": [*values], "mean": sum(values) / len(values), "std": 0.01}


@pytest.fixture(autouse=True)
def _results(monkeypatch, tmp_path):
    rows = {
        name: {
            "changes": {},
            "flops": 2 * flops,
            "matmul_flops": flops,
            "ensemble": first + 0.05,
            "n_examples": [9, 9],
            "test": {"accuracy": _summary(first, second)},
            "differences": {
                base: {"mean": 0.02, "both": [0.01, 0.03]} for base in {"sft", "k=0"} - {name}
            },
        }
        for name, flops, first, second in (
            ("sft", 2e6, 0.8, 0.82), ("mbt", 9e6, 0.81, 0.83), ("concat", 12e6, 0.7, 0.74)
        )
    }  # fmt: skip
    del rows["sft"]["differences"]["k=0"]
    rows["logistic regression"] = {"n_examples": [9], "test": {"accuracy": _summary(0.85)}}
    lines = [
        {
            "k": k,
            "flops": 3e6 * k,
            "matmul_flops": 1e6 * k,
            "metrics": {"accuracy": _summary(0.7, 0.8)},
        }
        for k in (0, 4)
    ]
    rows["any k"] = {**rows["sft"], "settings": lines}
    times = {"train_step_seconds": 0.1, "latency_seconds": 0.002, "train_peak_rss_bytes": 2**21}
    cost = {
        name: {k: {"median": n * v} for k, v in times.items()}
        for name, n in (("sft", 1), ("mbt", 3))
    }
    result = {"set": "watch", "metric": "accuracy", "seeds": [0, 1], "rows": rows}
    result["cost"] = {"rows": cost}
    (tmp_path / "study.json").write_text(json.dumps(result))
    monkeypatch.setattr(freshness, "RESULTS", tmp_path)


def _cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_rows_have_their_differences_and_costs():
    lines = _cells(study.study("study.json"))
    assert lines[0][:2] == ["row, 9 examples", "accuracy, %"]
    assert lines[2] == ["`sft`", "81.0 ± 1.4", "85.0", "", "", "2.00", "4.00", "100.0", "2.00", "2"]
    assert lines[3][2:7] == ["86.0", "+2.0 (+1.0 to +3.0)", "+2.0 (+1.0 to +3.0)", "9.00", "18.00"]
    assert lines[5][5:] == ["—"] * 5
    assert len(_cells(study.study("study.json", "mbt"))) == 3


def test_the_summary_names_the_best_dense_fusion():
    (line,) = _cells(study.summary("study.json"))[2:]
    assert line[2:] == [
        "82.0 ± 1.4 (`mbt`)",
        "+2.0 (+1.0 to +3.0)",
        "85.0 (logistic regression)",
        "4.5, 3.0, 3.0",
        "6.0, —, —",
    ]


def test_one_model_stands_beside_those_for_one_setting():
    lines = _cells(study.settings("study.json", "any k", "mbt", "sft"))
    assert lines[0] == ["", "k = 0", "k = 4"]
    assert lines[2] == ["`any k`", "75.0 ± 7.1", "75.0 ± 7.1"]
    assert lines[4][2] == "-6.0 (-10.0 to -2.0)"
