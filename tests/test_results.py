"""Files of results: each names its code, and a suite makes it."""

import json
import pathlib
import re

import pytest

from benchmarks import freshness, harness
from benchmarks.study import pictures
from benchmarks.study.sets import SETS
from benchmarks.suites import SUITES

RESULTS = pathlib.Path(__file__).parents[1] / "benchmarks" / "results"
IMAGES = pathlib.Path(__file__).parents[1] / "docs" / "images"

# Made before results named their commit, as benchmarks/README.md says. A file that is made again is
# taken off this list.
OLDER = {
    "against_torch.json",
    "compilation.json",
    "growth.json",
    "kills.json",
    "mosei_memory.json",
    "profile_mosei.json",
    "profile_vggsound.json",
}


def _code(path):
    return json.loads(path.read_text()).get("code", {})


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_results_have_the_commit_and_digest_of_their_code(path):
    if path.name in OLDER:
        assert not _code(path), f"{path.name} names its code: take it off OLDER"
    else:
        assert re.fullmatch("[0-9a-f]{40}", _code(path)["commit"])
        assert re.fullmatch("sha256:[0-9a-f]{64}", _code(path)["digest"])


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_results_are_of_the_commit_that_they_name(path):
    scope = SUITES[path.stem].scope
    for name, code in freshness.codes(json.loads(path.read_text())).items():
        if not code:
            continue
        own = code["scope"] if name.startswith("part ") else scope
        if (digest := freshness.package_digest(code["commit"])) is None:
            pytest.skip(f"git does not have commit {code['commit']} here")
        assert (code["digest"], code["dirty"]) == (digest, False)
        if code.get("scope") == own:
            then = freshness.sources_at(code["commit"], own)
            assert freshness.maker(code) == freshness.digest(then)
        if "renewed" in code:
            then = freshness.sources_at(code["renewed"], own)
            assert code["scope_digest"] == freshness.digest(then)


def test_pictures_are_of_the_results():
    wanted = pictures.pictures(RESULTS)
    kinds = ("frontier*.svg", "robustness*.svg", "kept*.svg")
    found = {path.stem: path.read_text() for kind in kinds for path in IMAGES.glob(kind)}
    assert set(found) == set(wanted), "run make tables"
    for name, picture in wanted.items():
        assert picture.digest in found[name], f"{name}: run make tables"


@pytest.mark.parametrize("name", SETS)
def test_rows_are_of_the_experiments_that_their_set_names(name):
    path, one = RESULTS / f"study_{name}.json", SETS[name]
    rows = json.loads(path.read_text())["rows"] if path.exists() else {}
    assert set(rows) <= {*one.rows, *one.classical}
    for row, measured in rows.items():
        assert measured["experiment"] == one.definition(row)


def test_every_file_of_results_has_a_suite():
    files = {path.name for path in RESULTS.glob("*.json")}
    assert files <= {f"{name}.json" for name in SUITES}
    assert files >= OLDER


def test_a_result_without_its_code_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="needs `code`"):
        harness.write(tmp_path / "result.json", {"accuracy": 1.0})
    harness.write(tmp_path / "result.json", {**harness.environment("accuracy"), "accuracy": 1.0})
    assert re.fullmatch("sha256:[0-9a-f]{64}", _code(tmp_path / "result.json")["digest"])
