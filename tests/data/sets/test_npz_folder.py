import json
import pickle
import zipfile

import npz_examples
import numpy as np
import pytest
from npz_examples import write_example, write_labels, write_manifest

from sft_jax.data.records import DataFileError
from sft_jax.data.sets.npz_folder.files import content_sha256, read_npz_folder

SPLITS = ("train", "valid", "test")
TWO_OF_EACH = {split: ["a", "b"] for split in SPLITS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return npz_examples.write(tmp_path_factory.mktemp("npz"))


def _folder(folder, *examples, **shapes):
    """Examples of arrays, in train, valid and test in turn, and two sound ones in train."""
    arrays = [{"x": np.ones((3, 2))}, {"x": np.ones((4, 2))}, *examples]
    rows = []
    for index, example in enumerate(arrays):
        split = "train" if index < 2 else SPLITS[(index - 1) % 3]
        rows.append([f"{index}.npz", split, "ab"[index % 2]])
        write_example(folder, rows[-1][0], **example)
    write_manifest(folder, rows)
    return folder


def _problems(folder):
    with pytest.raises(DataFileError) as error:
        read_npz_folder(folder)
    first, *problems = str(error.value).splitlines()
    assert first == f"{folder / 'manifest.csv'}:"
    return problems


def test_what_is_said_of_a_folder(folder):
    raw = read_npz_folder(str(folder))
    assert raw.variant == "npz_folder"
    assert raw.task == "single_label"
    assert raw.class_names == ("circle", "square", "star")
    assert raw.num_examples == {"train": 24, "valid": 6, "test": 6}
    assert raw.shapes == {"image": (28, 28, 1), "sound": (9, 5), "touch": (6, 1)}
    assert raw.files == (folder / "manifest.csv",)


@pytest.mark.parametrize("split", SPLITS)
def test_examples_are_those_of_the_files(folder, split):
    raw = read_npz_folder(folder)
    records = list(raw.read(split))
    assert [record["id"] for record in records] == [
        f"{split}/{index:03d}" for index in range(raw.num_examples[split])
    ]
    for index, record in enumerate(records):
        assert record["label"] == index % 3
        arrays = dict(np.load(folder / f"{record['id']}.npz"))
        if "touch" in arrays:
            arrays["touch"] = arrays["touch"].reshape(6, 1)
        assert arrays.keys() == record["inputs"].keys()
        assert ("touch" in arrays) == (index % 4 != 3)
        for key, values in arrays.items():
            np.testing.assert_array_equal(record["inputs"][key], values, strict=True)


def test_reading_can_be_repeated_and_pickled(folder):
    raw = read_npz_folder(folder)
    first = [record["id"] for record in raw.read("valid")]
    read = pickle.loads(pickle.dumps(raw.read))
    assert first == [record["id"] for record in raw.read("valid")]
    assert first == [record["id"] for record in read("valid")]
    with pytest.raises(ValueError, match="no split 'dev': there are train, valid, test"):
        next(raw.read("dev"))


def test_no_values_are_read_before_they_are_asked_for(folder, monkeypatch):
    def fail(*_, **__):
        raise AssertionError

    monkeypatch.setattr(np, "load", fail)
    monkeypatch.setattr(np.lib.format, "read_array", fail)
    raw = read_npz_folder(folder)
    with pytest.raises(AssertionError):
        next(raw.read("train"))


def test_an_array_of_length_0_is_a_modality_left_out(tmp_path):
    empty = {"x": np.ones((2, 2)), "y": np.zeros(0), "z": np.zeros((0, 0, 7))}
    whole = {"x": np.ones((2, 2)), "y": np.ones((1, 3)), "z": np.ones((5, 4, 4))}
    raw = read_npz_folder(_folder(tmp_path, empty, whole, whole, empty))
    assert raw.shapes == {"x": (4, 2), "y": (1, 3), "z": (5, 4, 4)}
    assert next(raw.read("valid"))["inputs"].keys() == {"x"}
    assert next(raw.read("test"))["inputs"].keys() == {"x", "y", "z"}


def test_numbers_that_are_not_finite_are_left(tmp_path):
    bad = {"x": np.array([[np.nan, np.inf]])}
    raw = read_npz_folder(_folder(tmp_path, bad, bad, bad))
    np.testing.assert_array_equal(next(raw.read("test"))["inputs"]["x"], bad["x"])


def test_compressed_and_fortran_ordered_files_are_read(tmp_path):
    values = np.asfortranarray(np.arange(12, dtype=np.float16).reshape(3, 2, 2))
    for split in SPLITS:
        np.savez_compressed(tmp_path / f"{split}.npz", x=values)
    np.savez_compressed(tmp_path / "other.npz", x=values)
    write_manifest(tmp_path, [*([f"{s}.npz", s, "a"] for s in SPLITS), ["other.npz", "train", "b"]])
    raw = read_npz_folder(tmp_path)
    np.testing.assert_array_equal(next(raw.read("test"))["inputs"]["x"], values, strict=True)


def test_a_manifest_may_have_ids_and_spreadsheet_quirks(tmp_path):
    _folder(tmp_path, *[{"x": np.ones((1, 2))}] * 2)
    (tmp_path / "manifest.csv").write_bytes(
        "\ufeffid, file ,split,label,age\r\n"
        'one,0.npz,train, "été, warm" ,3\r\n'
        "two,1.npz,train,rain,3\r\n"
        "\r\n"
        ",2.npz,valid,rain,\r\n"
        "four,3.npz,test,rain,5\r\n".encode()
    )
    raw = read_npz_folder(tmp_path)
    assert raw.class_names == ("rain", "été, warm")
    assert [[r["id"] for r in raw.read(s)] for s in SPLITS] == [["one", "two"], ["2"], ["four"]]


# Labels.


def test_classes_may_be_given_in_another_order(tmp_path):
    raw = read_npz_folder(write_labels(tmp_path, TWO_OF_EACH, class_names=["b", "c", "a"]))
    assert raw.class_names == ("b", "c", "a")
    assert [record["label"] for record in raw.read("test")] == [2, 0]
    assert raw.files == (tmp_path / "manifest.csv", tmp_path / "dataset.json")


def test_ordered_classes(tmp_path):
    levels = ["low", "middle", "high"]
    labels = dict.fromkeys(SPLITS, ("high", "low"))
    raw = read_npz_folder(write_labels(tmp_path, labels, task="ordinal", class_names=levels))
    assert raw.task == "ordinal"
    assert [record["label"] for record in raw.read("valid")] == [2, 0]


def test_any_number_of_labels(tmp_path):
    labels = {"train": ["dog|cat", "", "owl"], "valid": ["owl | dog"], "test": [""]}
    raw = read_npz_folder(write_labels(tmp_path, labels, task="multi_label"))
    assert raw.class_names == ("cat", "dog", "owl")
    assert [list(record["label"]) for record in raw.read("train")] == [
        [1, 1, 0],
        [0] * 3,
        [0, 0, 1],
    ]
    assert [list(record["label"]) for record in raw.read("valid")] == [[0, 1, 1]]


@pytest.mark.parametrize("names", [["height", "weight"], []])
def test_numbers_to_predict(tmp_path, names):
    labels = {"train": ["1|-2.5"], "valid": ["1e-3 | 0"], "test": ["3|4"]}
    raw = read_npz_folder(write_labels(tmp_path, labels, task="regression", class_names=names))
    assert raw.class_names == (tuple(names) or ("target_0", "target_1"))
    assert [list(record["label"]) for record in raw.read("train")] == [[1, -2.5]]
    assert [list(r["label"]) for r in raw.read("valid")] == [[np.float32(1e-3), 0]]


@pytest.mark.parametrize(
    ("labels", "description", "problem"),
    [
        (["c"], {}, "line 6 (test): label 'c' is not one of a, b"),
        ([""], {}, "line 6 (test): label '' is not one of a, b"),
        (["a|c"], {"task": "multi_label"}, "line 6 (test): label 'c' is not one of a, b"),
        (["a|"], {"task": "multi_label"}, "line 6 (test): label '' is not one of a, b"),
    ],
)
def test_a_class_that_training_lacks(tmp_path, labels, description, problem):
    splits = {"train": ["a", "b"], "valid": ["a", "b"], "test": labels}
    assert _problems(write_labels(tmp_path, splits, **description)) == [problem]


@pytest.mark.parametrize("label", ["", "one", "1|2", "nan", "inf", "1e39"])
def test_labels_that_are_not_numbers(tmp_path, label):
    labels = {"train": ["0", "1"], "valid": [label], "test": ["2"]}
    assert _problems(write_labels(tmp_path, labels, task="regression")) == [
        f"line 4 (valid): label {label!r} is not a finite number"
    ]


def test_too_few_classes(tmp_path):
    assert _problems(write_labels(tmp_path, dict.fromkeys(SPLITS, ("a",)))) == [
        "class names ['a']: single_label needs at least 2"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "dataset.json is no JSON in UTF-8"),
        ("[1]", "expected an object with the keys task and class_names"),
        ('{"tsak": "ordinal"}', "no key 'tsak': allowed are task and class_names"),
        ('{"task": "ranking"}', "task='ranking' is not one of single_label"),
        ('{"task": "ordinal"}', "task='ordinal' needs class_names, in their order"),
        ('{"class_names": "ab"}', "class_names='ab' is not a list of names"),
        ('{"class_names": ["a", "a"]}', "names must differ"),
        ('{"class_names": ["a", " b"]}', "no spaces at their ends"),
        ('{"task": "multi_label", "class_names": ["a|b"]}', "a name has a |, which joins"),
    ],
)
def test_the_description_is_checked(tmp_path, text, message):
    write_labels(tmp_path, TWO_OF_EACH)
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataFileError) as error:
        read_npz_folder(tmp_path)
    assert message in str(error.value)


# Folders that are not what they should be.


def test_a_missing_manifest(tmp_path):
    with pytest.raises(DataFileError, match=r"there is no .*/manifest.csv; .* file, split, label"):
        read_npz_folder(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"has the columns \(none\); expected file, split, label"),
        (b"path,split,label\n", "has the columns path, split, label; expected file"),
        (b"file,split,label,label\n", "each once"),
        (b"file,split,label\na.npz,train,x,y\n", "line 2 has more or fewer values"),
        (b"file,split,label\na.npz,train\n", "line 2 has more or fewer values"),
        (b"file,split,label\n\xff\n", "no CSV file in UTF-8"),
    ],
)
def test_a_manifest_that_is_no_such_table(tmp_path, content, message):
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(DataFileError, match=message):
        read_npz_folder(tmp_path)


def test_all_splits_are_required(tmp_path):
    assert _problems(write_labels(tmp_path, {"train": ["a", "b"], "test": ["a"]})) == [
        "no example of split 'valid': train, valid, test are all required"
    ]
    write_manifest(tmp_path, [])
    assert _problems(tmp_path)[0].startswith("no example of split 'train' and of split 'valid'")


def test_lines_that_cannot_be(tmp_path):
    write_labels(tmp_path, TWO_OF_EACH)
    rows = [
        ["0.npz", "train", "a", ""],
        ["1.npz", "Train", "b", ""],
        ["./0.npz", "train", "b", "other"],
        ["2.npz", "valid", "a", "0"],
        ["../x.npz", "test", "a", ""],
        ["/etc/x.npz", "test", "a", ""],
        ["", "test", "a", "nothing"],
        ["9.npz", "train", "b", ""],
    ]
    write_manifest(tmp_path, rows, header=("file", "split", "label", "id"))
    assert _problems(tmp_path) == [
        "line 3: split 'Train' is not one of train, valid, test",
        "line 4: file './0.npz' is that of line 2, too",
        "line 5: id '0' is that of line 2, too",
        "line 6: file '../x.npz' is no path inside the folder",
        "line 7: file '/etc/x.npz' is no path inside the folder",
        "line 8: file '' is no path inside the folder",
        "9.npz: there is no such file",
    ]


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"x": np.ones((5, 3))}, "a step of x has shape (3,), expected (2,) as in 0.npz"),
        ({"x": np.ones((5, 2, 1))}, "a step of x has shape (2, 1), expected (2,) as in 0.npz"),
        ({"x": np.ones(5)}, "a step of x has shape (1,), expected (2,) as in 0.npz"),
        ({"x": np.ones(())}, "x has shape (), expected [length, ..., features], none of them 0"),
        ({"x": np.ones((5, 0))}, "x has shape (5, 0), expected [length, ..., features], none of"),
        ({"x": np.array([["a"]])}, "x holds <U1, expected integers or floats"),
        ({"x": np.array([[None]])}, "x holds object, expected integers or floats"),
        ({"x": np.array([[True]])}, "x holds bool, expected integers or floats"),
        ({"x": np.zeros((0, 2))}, "it has no array, or none of any length"),
        ({}, "it has no array, or none of any length"),
        ({"x": np.ones((1, 2)), "y": np.ones((1, 2))}, "'y' is in no file of the split train"),
        ({"x": np.ones((1, 2)), "label": np.ones(1)}, "'label' is an array; ids and labels belong"),
        ({"x": np.ones((1, 2)), "a/b": np.ones(1)}, "'a/b' is no name for a modality"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, problem):
    sound = {"x": np.ones((1, 2))}
    (actual,) = _problems(_folder(tmp_path, arrays, sound, sound))
    assert actual.startswith(f"2.npz: {problem}")


def test_the_shape_that_most_files_have_is_expected(tmp_path):
    odd, usual = {"y": np.ones((1, 2, 1))}, {"y": np.ones((1, 2))}
    folder = _folder(tmp_path, odd, usual, usual, usual)
    write_manifest(folder, [[f"{i}.npz", SPLITS[i % 3], "ab"[i % 2]] for i in range(2, 6)])
    assert _problems(folder)[-1].startswith("2.npz: a step of y has shape (2, 1), expected (2,)")


def test_ten_problems_are_listed_and_the_others_counted(tmp_path):
    write_labels(tmp_path, TWO_OF_EACH)
    for index in range(12):
        with open(tmp_path / "manifest.csv", "a") as file:
            file.write(f"missing{index}.npz,train,a\n")
    problems = _problems(tmp_path)
    assert problems[9] == "missing9.npz: there is no such file"
    assert problems[10:] == ["and 2 more problems"]


def _cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def _no_zip(path):
    path.write_bytes(b"PK\3\4 nothing of the kind")


def _no_array(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", "text")


def _short_array(path):
    with zipfile.ZipFile(path) as archive:
        content = archive.read("x.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content[:-8])


@pytest.mark.parametrize("damage", [_cut, _no_zip, _no_array, _short_array])
def test_damaged_files_are_named_before_anything_is_read(tmp_path, damage):
    write_labels(tmp_path, TWO_OF_EACH)
    damage(tmp_path / "3.npz")
    (problem,) = _problems(tmp_path)
    assert problem.startswith("3.npz: it cannot be read as a .npz file: ")


def test_damaged_values_are_told_where_they_are_met(tmp_path):
    write_labels(tmp_path, TWO_OF_EACH)
    write_example(tmp_path, "0.npz", x=np.ones((5000, 3)))
    with open(tmp_path / "0.npz", "r+b") as file:
        file.seek(60_000)
        file.write(b"damage")
    raw = read_npz_folder(tmp_path)
    with pytest.raises(DataFileError, match=r"0.npz is damaged or gone: Bad CRC-32"):
        next(raw.read("train"))


def test_a_file_that_changes_after_its_header_is_named(tmp_path):
    raw = read_npz_folder(write_labels(tmp_path, TWO_OF_EACH))
    write_example(tmp_path, "0.npz", x=np.ones((2, 4)))
    with pytest.raises(DataFileError, match=r"0.npz has changed: now x has shape \(2, 4\)"):
        next(raw.read("train"))
    (tmp_path / "0.npz").unlink()
    with pytest.raises(DataFileError, match=r"0.npz is damaged or gone"):
        next(raw.read("train"))


def test_the_hash_follows_content_alone(tmp_path):
    write_labels(tmp_path, TWO_OF_EACH)
    first = content_sha256(tmp_path)
    np.savez_compressed(tmp_path / "0.npz", x=np.ones((2, 3)))
    assert content_sha256(tmp_path) == first

    hashes = {first}
    for change in (
        lambda: write_example(tmp_path, "0.npz", x=np.full((2, 3), 2.0)),
        lambda: write_example(tmp_path, "0.npz", x=np.full((3, 2), 2.0)),
        lambda: write_example(tmp_path, "0.npz", y=np.full((3, 2), 2.0)),
        lambda: write_manifest(
            tmp_path, [[f"{i}.npz", SPLITS[i // 2], "ab"[i % 2]] for i in range(5)]
        ),
        lambda: (tmp_path / "dataset.json").write_text(json.dumps({"task": "single_label"})),
    ):
        change()
        hashes.add(content_sha256(tmp_path))
    assert len(hashes) == 6


def test_the_hash_of_a_damaged_folder_names_the_file(tmp_path):
    write_labels(tmp_path, TWO_OF_EACH)
    (tmp_path / "4.npz").unlink()
    with pytest.raises(DataFileError, match=r"4.npz: there is no such file"):
        content_sha256(tmp_path)
