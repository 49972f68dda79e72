"""Suites of benchmarks: their commands parse, their experiments exist, and rows add up."""

import importlib
import pathlib
import re
import sys
import types

import pytest
from absl import flags

from benchmarks import (
    freshness,
    harness,
    imbalance,
    run_all,
)
from benchmarks.suites import RAW_FILES, SUITES
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
    names = run_all.chosen(["study"], ["growth"])
    assert {"study_watch", "diagnosis", "growth"} <= set(names)
    assert {SUITES[name].group for name in set(names) - {"growth"}} == {"study"}


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


def test_every_isolated_function_exists():
    paths = [
        path
        for file in sorted(BENCHMARKS.glob("*.py"))
        for path in re.findall(r'"(benchmarks\.\w+:\w+)"', file.read_text())
    ]
    assert len(paths) >= 4
    assert all(callable(plugins.load(path, "benchmark")) for path in paths)


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


def test_results_of_other_seeds_are_not_continued(tmp_path):
    path, begun = tmp_path / "result.json", {"set": "watch", "seeds": [0]}
    result = harness.read_or_begin(path, "accuracy", begun, "rows")
    harness.write(path, result)
    assert harness.read_or_begin(path, "accuracy", begun, "rows") == result
    for field, value in (("seeds", [0, 1]), ("set", "hapt")):
        message = re.escape(f"{field}={begun[field]}, not {value}: remove it")
        with pytest.raises(ValueError, match=message):
            harness.read_or_begin(path, "accuracy", {**begun, field: value}, "rows")


def test_a_row_of_another_machine_names_it(tmp_path):
    result = harness.read_or_begin(tmp_path / "result.json", "accuracy", {}, "rows")
    assert harness.elsewhere(result) == {}
    older = {**result["versions"], "jax": "0.1"}
    assert harness.elsewhere({**result, "versions": older}) == {"versions": result["versions"]}
    found = harness.elsewhere({**result, "machine": "riscv64, 1 cores, tpu"})
    assert found == {"machine": result["machine"]}
