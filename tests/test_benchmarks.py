"""Suites of benchmarks: their commands parse, their experiments exist, and rows add up."""

import importlib
import pathlib
import re
import sys
import types

import pytest
from absl import flags

from benchmarks import (
    accuracy,
    accuracy_suites,
    against_commit_side,
    freshness,
    harness,
    imbalance,
    run_all,
)
from benchmarks.suites import RAW_FILES, SUITES
from benchmarks.variant import Variant
from sft_jax import plugins, version
from sft_jax.profile import __main__ as profile

BENCHMARKS = pathlib.Path(harness.__file__).parent


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # Of ml_collections.
@pytest.mark.parametrize("name", SUITES)
def test_the_command_of_a_suite_parses(name, tmp_path):
    _, module, *arguments = run_all.command(name, tmp_path, "raw")
    if module == "sft_jax.profile":
        values = flags.FlagValues()
        profile.define_flags(values)
        assert values(["profile", *arguments]) == ["profile"]
        assert values.json == str(tmp_path / f"{name}.json")
        return
    if (BENCHMARKS.parent / module.replace(".", "/")).is_dir():
        module += ".__main__"
    options = importlib.import_module(module).parser().parse_args(arguments)
    assert options.json == tmp_path / f"{name}.json"


def test_raw_files_are_asked_for(tmp_path):
    for name, suite in SUITES.items():
        assert (suite.data in RAW_FILES) == any("manual_dir" in part for part in suite.arguments)
        if suite.data in RAW_FILES:
            with pytest.raises(ValueError, match=f"{name} needs --manual_dir=FOLDER"):
                run_all.command(name, tmp_path, None)


def test_the_readme_has_the_table_of_suites():
    text = (BENCHMARKS / "README.md").read_text()
    assert [line for line in run_all.table() if line not in text] == []


def test_suites_are_chosen_by_group_and_by_name():
    assert run_all.chosen([], []) == [*SUITES]
    names = run_all.chosen(["av_mnist"], ["growth"])
    assert {"av_mnist", "sparse_accuracy", "growth"} <= set(names)
    assert {SUITES[name].group for name in set(names) - {"growth"}} == {"av_mnist"}


def test_a_suite_that_is_done_and_fresh_is_not_run_again(monkeypatch, tmp_path, capsys):
    started, fails = [], True
    version.code()  # It calls git, and is kept.

    def run(command, cwd):
        path = pathlib.Path(command[-1].removeprefix("--json="))
        started.append(path.stem)
        assert not path.exists() or "--again" not in sys.argv
        harness.write(path, {"code": freshness.identity(SUITES[path.stem].scope)})
        return types.SimpleNamespace(returncode=int(fails and path.stem == "growth"))

    def start(*arguments):
        started.clear()
        own = ["--only=growth", "--only=compilation", f"--results={tmp_path}", *arguments]
        monkeypatch.setattr(sys, "argv", ["run_all", *own])
        run_all.main()
        return [*started]

    monkeypatch.setattr(run_all.subprocess, "run", run)
    with pytest.raises(SystemExit, match="failed: growth"):
        start()
    assert "2 suites, about 0.5 hours: growth, compilation\n" in capsys.readouterr().out
    fails = False
    assert start() == ["growth"]
    assert "1 suite, about 0.2 hours: growth\n1 are done and fresh" in capsys.readouterr().out
    assert start() == []
    assert start("--again") == ["growth", "compilation"]
    monkeypatch.setattr(freshness, "digest", lambda _: "sha256:other")
    assert start() == ["growth", "compilation"]


@pytest.mark.parametrize("name", accuracy_suites.SUITES)
def test_every_experiment_of_a_suite_is_valid(name):
    suite = accuracy_suites.SUITES[name]
    configs = [variant.experiment("raw") for row in suite.rows.values() for variant in row]
    assert len(configs) == len({repr(config) for config in configs})
    assert all(set(pair) <= set(suite.rows) for pair in suite.differences.values())


def test_every_isolated_function_exists():
    paths = [
        path
        for file in sorted(BENCHMARKS.glob("*.py"))
        for path in re.findall(r'"(benchmarks\.\w+:\w+)"', file.read_text())
    ]
    assert len(paths) >= 4
    assert all(callable(plugins.load(path, "benchmark")) for path in paths)


def test_moved_modules_are_imported_from_their_new_place():
    for name in against_commit_side.MOVED:
        assert against_commit_side.import_either(name).__name__ == name


def test_a_row_takes_the_runs_of_all_its_experiments(monkeypatch, tmp_path):
    seeds_by_folder = {}

    def train_seeds(config, workdir):
        seeds_by_folder[workdir] = config.seeds

    def evaluate_seeds(workdir, split, which):
        assert which == "best"
        number = int(workdir.name)
        values = [number + {"valid": 0.5, "test": 0.25}[split] for _ in seeds_by_folder[workdir]]
        return {
            "metrics": {"accuracy": {"values": values}},
            "steps": [40 + number] * len(values),
            "n_examples": 10 * (number + 1),
            "seeds": seeds_by_folder[workdir],
        }

    monkeypatch.setattr(accuracy.experiment, "train_seeds", train_seeds)
    monkeypatch.setattr(accuracy, "evaluate_seeds", evaluate_seeds)
    config = Variant("watch").experiment()
    row = accuracy.train_and_evaluate([config, config], [3, 4], tmp_path)
    assert [*seeds_by_folder.values()] == [(3, 4), (3, 4)]
    assert row["accuracies"] == [0.25, 0.25, 1.25, 1.25]
    assert (row["accuracy_mean"], row["valid_accuracy_mean"]) == (0.75, 1.0)
    assert row["best_steps"] == [40, 40, 41, 41]
    assert row["n_examples"] == [10, 10, 20, 20]
    assert row["parameters"] == 67327


def test_results_of_other_seeds_are_not_continued(tmp_path):
    path = tmp_path / "result.json"
    result = accuracy.read_or_begin(path, "quick", [0], "accuracy")
    harness.write(path, result)
    assert accuracy.read_or_begin(path, "quick", [0], "accuracy") == result
    with pytest.raises(ValueError, match=r"has seeds=\[0\], not \[0, 1\]: remove it"):
        accuracy.read_or_begin(path, "quick", [0, 1], "accuracy")
    with pytest.raises(ValueError, match="has suite=quick, not watch_accuracy"):
        accuracy.read_or_begin(path, "watch_accuracy", [0], "accuracy")


def test_rows_of_other_code_are_measured_again(monkeypatch, tmp_path):
    suite, folders = accuracy_suites.SUITES["quick"], []

    def train_and_evaluate(configs, seeds, folder, *_):
        folders.append(folder)
        return {"accuracies": [0.5]}

    monkeypatch.setattr(accuracy, "train_and_evaluate", train_and_evaluate)
    path, (name, *_) = tmp_path / "result.json", suite.rows
    arguments = ["--suite=quick", f"--json={path}", f"--runs={tmp_path}"]
    options = accuracy.parser().parse_args(arguments)
    result = accuracy.read_or_begin(path, "quick", [0], suite.scope)
    for _ in range(2):
        accuracy.measure_rows(suite, [name], options, result)
    assert len(folders) == 1
    result["models"][name]["code"]["scope_digest"] = "sha256:other"
    accuracy.measure_rows(suite, [name], options, result)
    assert len(folders) == 2
    result["models"][name]["experiments"][0]["argument"] = "k=1"
    accuracy.measure_rows(suite, [name], options, result)
    assert len(folders) == 3
    monkeypatch.setattr(freshness, "digest", lambda _: "sha256:another_code")
    accuracy.measure_rows(suite, [name], options, result)
    assert folders[3].parent.name == "another_code"
    assert folders[2] == folders[1] == folders[0] != folders[3]


def test_the_command_in_a_result_names_no_folder(monkeypatch):
    path = BENCHMARKS / "accelerator_sections" / "__main__.py"
    monkeypatch.setattr("sys.argv", [str(path), "--only=two words"])
    assert harness.command() == "python -m benchmarks.accelerator_sections '--only=two words'"
    monkeypatch.setattr("sys.argv", [str(BENCHMARKS / "growth.py"), "--json=growth.json"])
    assert harness.command() == "python -m benchmarks.growth --json=growth.json"
    monkeypatch.setattr("sys.argv", ["/somewhere/else/tool", "x"])
    assert harness.command() == "tool x"


def test_each_way_to_train_is_valid():
    configs = [imbalance.config("raw", [0], 1, **way) for way in imbalance.WAYS.values()]
    assert len({repr(config.train) for config in configs}) == len(configs)
    assert {config.data.test_sets for config in configs} == {("b",)}
