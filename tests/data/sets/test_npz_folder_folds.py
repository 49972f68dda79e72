"""Folds of a folder of `.npz` files."""

import collections

import npz_examples
import numpy as np
import pytest

from sft_jax.data.records import DataFileError
from sft_jax.data.sets.npz_folder.entry import FolderData
from sft_jax.data.sets.npz_folder.files import read_npz_folder

PEOPLE = {"ann": "aabb", "bob": "ab", "cy": "ab", "dee": "aab", "eve": "bba", "flo": "ab"}
"""Labels of the examples of each group."""


def _write(folder, people=PEOPLE, header="file,label,group", description=None):
    rows = [
        (f"{who}_{i}", label, who) for who, own in people.items() for i, label in enumerate(own)
    ]
    lines = [header]
    for number, (name, *fields) in enumerate(rows):
        npz_examples.write_example(folder, f"{name}.npz", sound=np.full((3, 2), float(number)))
        lines.append(",".join([f"{name}.npz", *fields][: header.count(",") + 1]))
    (folder / "manifest.csv").write_text("\n".join(lines))
    if description:
        (folder / "dataset.json").write_text(description)
    return folder


def _splits(folder, folds, fold):
    raw = read_npz_folder(folder, folds=folds, fold=fold)
    return {split: [*raw.read(split)] for split in ("train", "valid", "test")}


def test_groups_stay_whole_and_each_is_tested_on_once(tmp_path):
    folder, tested = _write(tmp_path), collections.Counter()
    for fold in range(3):
        splits = _splits(folder, 3, fold)
        people = {
            split: {record["id"].split("_")[0] for record in own} for split, own in splits.items()
        }
        assert sum(len(own) for own in people.values()) == len(PEOPLE)
        assert set.union(*people.values()) == set(PEOPLE)
        assert sum(map(len, splits.values())) == sum(map(len, PEOPLE.values()))
        for own in splits.values():
            assert {record["label"] for record in own} == {0, 1}
        tested.update(people["test"])
        assert people["valid"] == {
            record["id"].split("_")[0] for record in _splits(folder, 3, (fold + 1) % 3)["test"]
        }
    assert tested == dict.fromkeys(PEOPLE, 1)


def test_examples_are_groups_of_their_own_without_the_column(tmp_path):
    folder = _write(tmp_path, header="file,label")
    splits = _splits(folder, 8, 1)
    assert {split: len(own) for split, own in splits.items()} == {
        "train": 12,
        "valid": 2,
        "test": 2,
    }


def test_folds_of_a_regression_have_alike_numbers(tmp_path):
    numbers = {who: "1234"[: len(own)] for who, own in PEOPLE.items()}
    folder = _write(tmp_path, numbers, description='{"task": "regression"}')
    assert {split: len(own) for split, own in _splits(folder, 3, 0).items()}["test"] in (5, 6)


def test_each_fold_is_prepared_for_itself(tmp_path):
    folder = _write(tmp_path / "raw")
    names = set()
    for folds, fold in [(3, 0), (3, 1), (4, 0)]:
        entry = FolderData(manual_dir=str(folder), folds=folds, fold=fold)
        names.add(entry.stored_form(folder).name)
    assert len(names) == 3


@pytest.mark.parametrize(
    ("people", "header", "folds", "message"),
    [
        (PEOPLE, "file,label,group", 7, "folds=7: expected 0, or 3 to 6, the number of groups"),
        ({**PEOPLE, "": "a"}, "file,label,group", 3, "line 18: the column group is empty"),
        (
            {"ann": "aa", "bob": "bb", "cy": "ab"},
            "file,label,group",
            3,
            "has no example of b: take",
        ),
        (PEOPLE, "file,group", 3, "has the columns file, group; expected file, label and maybe id"),
    ],
)
def test_folds_that_are_impossible_are_refused(tmp_path, people, header, folds, message):
    folder = _write(tmp_path, people, header)
    with pytest.raises((ValueError, DataFileError), match=message):
        read_npz_folder(folder, folds=folds)


def test_a_fold_out_of_range_is_refused_before_the_data_is_read():
    with pytest.raises(ValueError, match="fold=3 with folds=3: expected 0 to 2"):
        FolderData(manual_dir="nowhere", folds=3, fold=3)
    with pytest.raises(ValueError, match="fold=1 with folds=0: expected 0, as there are no folds"):
        FolderData(manual_dir="nowhere", fold=1)
