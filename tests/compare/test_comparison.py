"""Runs that fit together are compared in one table; others are refused or noted."""

import csv
import dataclasses
import io

import pytest
from rich.console import Console
from rows_of_numbers import row, unit

from sft_jax.compare import comparison, tables
from sft_jax.compare.comparison import ComparisonError, compare
from sft_jax.modules.factory import build_model
from sft_jax.profile import flops


@pytest.fixture
def compared(monkeypatch):
    """Function that compares rows which are already read."""

    def run(*rows, notes=(), **options):
        monkeypatch.setattr(comparison, "_read", lambda *_: (list(rows), list(notes)))
        return compare([], measure=False, **options)

    return run


BASE = {("", 0): [1, 0, 0, 0], ("", 1): [1, 1, 0, 0]}
OTHER = {("", 0): [1, 1, 0, 0], ("", 1): [1, 1, 1, 1]}


def test_the_table_has_means_differences_and_costs(compared, tmp_path):
    result = compared(row("base", BASE), row("other", OTHER, model__k=1))
    assert (result.baseline, result.n_examples, result.notes) == ("base", 4, ())
    first, second = result.lines
    assert (first.mean, first.std, first.difference) == (0.375, pytest.approx(0.1767767), None)
    assert (second.mean, second.difference.mean, second.difference.pairs) == (0.75, 0.375, 2)
    fewer = row("other", OTHER, model__k=1)
    model = build_model(fewer.config.model, fewer.info.modalities, 3)
    assert second.flops == flops.forward_cost(model).flops < first.flops
    assert second.parameters == flops.num_parameters(model)

    console = Console(width=160, record=True, file=io.StringIO())
    tables.print_comparison(console, result)
    text = console.export_text()
    assert "0.3750 ± 0.1768" in text
    assert "+0.3750" in text

    tables.write_csv(tmp_path / "table.csv", result)
    records = [*csv.DictReader((tmp_path / "table.csv").read_text().splitlines())]
    assert [record["run"] for record in records] == ["base", "other"]
    assert records[1]["values"] == "0.5; 1.0"
    assert float(records[1]["runs_low"]) == second.difference.runs[0]
    assert records[0]["difference"] == records[0]["milliseconds"] == ""

    tables.draw_comparison(tmp_path / "picture.png", result)
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_any_row_may_be_the_baseline(compared):
    result = compared(row("base", BASE), row("other", OTHER), baseline="other/")
    assert (result.baseline, result.lines[0].difference.mean) == ("other", -0.375)
    with pytest.raises(ValueError, match="baseline=third: no such run; there are base, other"):
        compared(row("base", BASE), row("other", OTHER), baseline="third")


def test_unknown_metrics_are_named(compared):
    with pytest.raises(
        ComparisonError,
        match="metric=mae: base has no such metric of the task single_label; it has accuracy, bal",
    ):
        compared(row("base", BASE), metric="mae")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 1.0}, "confidence=1.0: expected a number above 0 and below 1"),
        ({"resamples": -1}, "resamples=-1: expected 0 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(compared, options, message):
    with pytest.raises(ValueError, match=message):
        compared(row("base", BASE), **options)


def _other_classes():
    some = row("other", OTHER)
    return dataclasses.replace(some, info=dataclasses.replace(some.info, class_names=("a", "b")))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (row("other", {("", 0): [1, 0]}), "on other examples: 2 and 4 of them"),
        (
            row("other", {("", 0): unit("other", ("", 0), [1, 0, 1, 0], ids=[*"abcd"])}),
            "on other examples: number 0 has the id a in one, e0 in the other",
        ),
        (_other_classes(), "other predicts a, b, and base predicts low, middle, high"),
        (row("other", {("2", 0): [1, 0, 0, 0]}), "other has the folds 2, and base has none"),
    ],
)
def test_other_examples_are_refused(compared, other, message):
    with pytest.raises(ComparisonError, match=message):
        compared(row("base", BASE), other)


def test_unlike_runs_are_noted(compared):
    result = compared(
        row("base", BASE),
        row("fewer", {("", 1): unit("fewer", ("", 1), [1, 1, 0, 0], done=False)}),
        row("data", BASE, data__train_people=(1, 2)),
        notes=["without broken: no checkpoint"],
    )
    broken, unfinished, seeds, data = result.notes
    assert broken == "without broken: no checkpoint"
    assert unfinished == "fewer: not trained to the end yet: seed 1"
    assert seeds == (
        "fewer: its runs (seed 1) are not those of base (seed 0; seed 1): the differences are of"
        " seed 1"
    )
    assert data.startswith("data: trained on other data than base: data.train_people: [1, 2, 3,")
