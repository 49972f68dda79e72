"""Repositories of the hub, which a fake of its client takes from folders here."""

import csv
import fnmatch
import json
import shutil
import sys
import types

import numpy as np
import pytest
import synthetic
import tiny_exports
import yaml

import sft_jax
from sft_jax import export
from sft_jax.commands import predict
from sft_jax.export import hub, layout
from sft_jax.export.written import ExportedFileError
from sft_jax.runs.directory import RunDirectoryError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "a"
    export.write(tiny_exports.classifier(readout="mean"), path, "safetensors")
    return path


@pytest.fixture
def repository(exported, tmp_path, monkeypatch):
    """Folder of the files of the repository `me/watch`, in an empty working folder."""
    shutil.copytree(exported, tmp_path / "repository")
    (tmp_path / "repository" / "model.pkl").touch()

    def snapshot_download(repository, *, revision, allow_patterns, library_name, library_version):
        if repository != "me/watch" or revision not in (None, "v1", COMMIT):
            raise OSError(f"404 Not Found: {repository} {revision}")
        folder = tmp_path / "cache" / COMMIT
        folder.mkdir(parents=True, exist_ok=True)
        for path in (tmp_path / "repository").iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, folder)
        return str(folder)

    fake = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "repository"


@pytest.mark.parametrize("name", ["me/watch", "me/watch@v1", f"me/watch@{COMMIT}"])
def test_three_files_of_a_repository_are_loaded(repository, tmp_path, name):
    assert sft_jax.load(name).info == tiny_exports.info()
    names = {path.name for path in (tmp_path / "cache" / COMMIT).iterdir()}
    assert names == {layout.WEIGHTS, layout.CONFIG, layout.CARD}


def test_the_program_predicts_by_a_repository(repository):
    np.savez("one.npz", sound=np.full((7, 2), 1000))
    synthetic.run_command(predict, "--workdir=me/watch", "--input=one.npz", "--out=out.csv")
    with open("out.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["id"] == "one"
    assert row["prediction"] in tiny_exports.info().class_names


def test_a_folder_here_comes_first(repository, tmp_path):
    (tmp_path / "me" / "watch").mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match="me/watch is not a run directory: it has no conf"):
        sft_jax.load("me/watch")


@pytest.mark.parametrize("name", ["runs/wach", "me/watch@v9"])
def test_both_readings_of_a_wrong_name_are_told(repository, name):
    with pytest.raises(RunDirectoryError, match=r"no such folder. Nor .* OSError: 404 Not Found"):
        sft_jax.load(name)


@pytest.mark.parametrize("name", ["watch", "/a/b", "./b", "../b", "a/b/c", "a/b@", "gs://a/b"])
def test_other_texts_are_never_repositories(name):
    assert not hub.is_id(name)


def test_the_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"no such folder. .*pip install 'sft_jax\[hub\]'"):
        sft_jax.load("runs/wach")


def _change(repository, **changes):
    values = json.loads((repository / layout.CONFIG).read_text())
    (repository / layout.CONFIG).write_text(json.dumps(values | changes))


def test_repositories_of_other_kinds_are_not_downloaded(repository, tmp_path):
    _change(repository, format_version=7)
    with pytest.raises(ExportedFileError, match=r"me/watch, of the .* hub, is of format version 7"):
        sft_jax.load("me/watch")
    (repository / layout.CONFIG).write_text('{"model_type": "bert"}')
    with pytest.raises(ExportedFileError, match=r"me/watch, of the .* holds no metadata of an exp"):
        sft_jax.load("me/watch")
    assert not (tmp_path / "cache" / COMMIT / layout.WEIGHTS).exists()


def test_objects_that_a_stranger_names_are_not_imported(repository, tmp_path):
    config = json.loads((repository / layout.CONFIG).read_text())["config"]
    _change(repository, config=config | {"pool": "os:system", "tokenizers": {"a": "b.c:D"}})
    with pytest.raises(ExportedFileError, match=r"needs objects .*, os:system, b\.c:D"):
        sft_jax.load("me/watch")
    assert not (tmp_path / "cache" / COMMIT / layout.WEIGHTS).exists()


def test_the_hub_understands_the_card(exported):
    _, front, _ = (exported / layout.CARD).read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "sft_jax",
        "license": "unknown",
        "tags": ["multimodal", "jax", "sparse-fusion-transformer"],
    }
