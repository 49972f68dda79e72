"""Renewal: a stale figure is fresh again only if all that it is computed from is the same."""

import functools
import json
import pathlib
from unittest import mock

import pytest

from benchmarks import behaviour, fingerprint, freshness, growth, renewal, suite_programs
from benchmarks.renewal import Measured
from benchmarks.study import cost
from benchmarks.study.__main__ import folder
from benchmarks.study.sets import SETS, StudyRow
from benchmarks.variant import Variant
from sft_jax import version

SMALL = {
    "data.events": 1,
    "data.length": 4,
    "data.train_examples": 40,
    "data.valid_examples": 8,
    "data.test_examples": 8,
    "model.k": 2,
    "model.n_post": 1,
    "model.width": 8,
    "train.epochs": 1,
}


@pytest.fixture(scope="module")
def prints(tmp_path_factory):
    """Returns the function from changed fields to a fingerprint."""
    folder = str(tmp_path_factory.mktemp("data"))

    def config(changes):
        own = {**SMALL, "data.data_dir": folder, **changes}
        return Variant("matching", "", own).experiment()

    def compute(changes, **row):
        parts = fingerprint.training(config(changes), StudyRow(**row), [0, 1])
        return {name: own() for name, own in parts.items() if name != "behaviour"}

    compute.config = config
    return compute


@pytest.fixture(scope="module")
def base(prints):
    """Returns the fingerprint without changes."""
    return prints({})


def _differing(one, other):
    return [part for part in one if one[part] != other[part]]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, []),
        ({"optim.lr": 0.004, "data.data_seed": 1}, ["plan", "batches"]),
        ({"model.dropout": 0.1}, ["programs"]),
    ],
)
def test_a_fingerprint_tells_what_differs(prints, base, changes, parts):
    assert _differing(base, prints(changes)) == parts


def test_settings_that_runs_are_evaluated_with_count(prints, base):
    assert _differing(base, prints({}, budgets=(0, 1))) == ["programs"]


def test_what_no_part_covers_is_refused(prints):
    changes = {"train.class_weights": "balanced", "optim.schedule": "plateau"}
    with pytest.raises(ValueError, match=r"cover train\.class_weights, optim\.schedule='plateau'"):
        prints(changes)


SCOPE = "accuracy matching"


NOW = {"plan": "a", "programs": "b"}


def _measured(**row):
    code, parts = (
        freshness.identity(SCOPE),
        {name: functools.partial(str, own) for name, own in NOW.items()},
    )
    return Measured("sft", {"code": code, **row}, SCOPE, parts)


def test_a_fresh_row_gets_its_fingerprint_once():
    one = _measured()
    assert renewal.renew(one) == "has a fingerprint now"
    assert one.row["fingerprint"] == NOW
    assert renewal.renew(one) == ""


def test_a_fresh_row_gets_a_new_part_and_loses_one_that_is_no_more():
    one = _measured(fingerprint={"plan": "known", "host": "d"})
    assert renewal.renew(one) == "has a fingerprint now"
    assert one.row["fingerprint"] == {"plan": "known", "programs": "b"}


@pytest.mark.parametrize(
    ("row", "missing"),
    [({"fingerprint": {"plan": "a", "host": "d"}}, "programs"), ({}, "plan, programs")],
)
def test_a_stale_row_without_a_part_stays_stale(row, missing):
    one = _measured(**row)
    one.row["code"]["scope_digest"] = "sha256:old"
    assert renewal.renew(one) == f"stale, and without {missing} in its fingerprint"
    assert not freshness.state(one.row["code"], SCOPE).fresh


def test_a_stale_row_is_renewed_only_by_its_own_fingerprint():
    one = _measured(fingerprint={**NOW, "programs": "c"}, experiment={"base": 1})
    one.row["code"]["scope_digest"] = "sha256:old"
    runs = folder(pathlib.Path("runs"), "sft", one.row)
    assert renewal.renew(one) == "stale: programs differ"
    assert not freshness.state(one.row["code"], SCOPE).fresh
    one.row["fingerprint"]["programs"] = "b"
    assert renewal.renew(one) == "renewed"
    assert freshness.state(one.row["code"], SCOPE).fresh
    assert folder(pathlib.Path("runs"), "sft", one.row) == runs  # Its runs are still found.


def test_with_missing_only_rows_without_a_fingerprint_are_changed(monkeypatch, tmp_path):
    file = tmp_path / "study_watch.json"
    rows = {"new": {}, "old": {"fingerprint": {}}}
    file.write_text(json.dumps({"code": {"digest": ""}, "rows": rows}))

    def measured(name, result, manual_dir):
        return [Measured(name, row, "", {"loop": lambda: "a"}) for row in result["rows"].values()]

    monkeypatch.setattr(renewal, "measured", measured)
    monkeypatch.setattr(freshness, "state", lambda *_: mock.Mock(fresh=True))
    monkeypatch.setattr(version, "code", lambda: {"dirty": False})
    arguments = ["renewal", f"--results={tmp_path}", "--only=study_watch", "--missing"]
    monkeypatch.setattr("sys.argv", arguments)
    renewal.main()
    written = json.loads(file.read_text())["rows"]
    assert written == {"new": {"fingerprint": {"loop": "a"}}, "old": {"fingerprint": {}}}


def test_costs_have_the_fingerprint_of_all_their_models(prints, monkeypatch):
    # The programs themselves are those of the rows.
    programs = lambda config, *_: [str(config.model)]  # noqa: E731
    monkeypatch.setattr(fingerprint, "lowered_programs", programs)
    configs = [prints.config({}), prints.config({"model.dropout": 0.1})]
    compute = lambda own: {name: part() for name, part in fingerprint.cost(own).items()}  # noqa: E731
    both = compute(configs)
    assert both.keys() == {"programs", "source"}
    assert _differing(both, compute(configs[::-1])) == ["programs"]
    configs[0] = prints.config({"data.data_seed": 1})
    assert both == compute(configs)


def test_rows_have_the_experiments_of_head(monkeypatch):
    for name in ("training", "classical", "cost"):
        monkeypatch.setattr(fingerprint, name, lambda *args, kind=name: (kind, *args))
    one = SETS["watch"]
    rows = {
        name: {"experiment": one.definition(name), "rate": 2.0, "code": {}}
        for name in ("sft", "k=0", "logistic regression")
    }
    rows["k=0"]["experiment"] = {"base": "another"}
    costs = {"rows": dict.fromkeys(cost.configs(one, "")), "code": {}}
    result = {"set": "watch", "seeds": [0], "rows": rows, "cost": costs}
    found = {own.name: own.fingerprint for own in renewal.measured("study_watch", result, "")}
    assert {*found} == {*rows, "cost"}
    assert found["cost"][0] == "cost"
    assert found["sft"][0] == "training"
    assert found["sft"][1].optim.lr == 0.004
    assert found["logistic regression"][0] == "classical"
    assert found["k=0"] is None


def test_a_file_that_names_its_commit_alone_is_renewed(monkeypatch):
    monkeypatch.setattr(freshness, "sources_at", lambda commit, scope: {})
    code = {**version.code(), "dirty": False}
    one = Measured("", {"code": code, "fingerprint": dict(NOW)}, SCOPE, _measured().fingerprint)
    assert renewal.renew(one) == "renewed"
    assert one.row["code"]["made_by"] == code["digest"]
    assert freshness.state(one.row["code"], SCOPE).fresh


@pytest.mark.parametrize("name", suite_programs.PROGRAMS)
def test_a_suite_that_measures_has_a_fingerprint(monkeypatch, name):
    lowered = []
    monkeypatch.setattr(suite_programs, "_lowered", lambda config: lowered.append(config) or ["a"])
    monkeypatch.setattr(
        growth, "lower", lambda *args: lowered.append(args) or (mock.Mock(as_text=str), ())
    )
    (one,) = renewal.measured(name, {"code": {}}, "raw")
    assert one.fingerprint.keys() == {"programs", "source"}
    assert one.fingerprint["programs"]().startswith("sha256:")
    assert one.fingerprint["source"]().startswith("sha256:")
    assert lowered


def test_programs_of_a_suite_are_those_of_its_experiments(prints):
    small, other = (prints.config({"model.dropout": share}) for share in (0.0, 0.1))
    first, again, changed = ([*suite_programs._lowered(one)] for one in (small, small, other))
    assert first == again
    assert len(first) == 3  # State, training and evaluation.
    assert first[1] != changed[1]


def test_behaviour_is_of_the_results_of_small_rows(monkeypatch):
    trained, last = [], {"value": 0.12345}

    def train(config, row, seeds, folder):
        trained.append(config.data.name)
        loss = {"values": [last["value"]], "std": None}
        return {"valid": loss, "flops": 7.5, "settings": [{"k": 1, "flops": 3}], "steps": [4]}

    monkeypatch.setattr(behaviour, "train_row", train)
    own = {"valid": {"values": [0.123], "std": None}, "settings": [{"k": 1}], "steps": [4]}
    assert behaviour.results() == dict.fromkeys(trained, own)
    assert trained == ["matching", "physionet2012", "hapt"]
    digest = fingerprint.behaves.__wrapped__
    first = digest()
    last["value"] += 1e-6  # Another machine.
    assert digest() == first
    last["value"] += 1e-3
    assert digest() != first
