import collections
import math
import pickle
import sys

import h5py
import numpy as np
import pytest
import vggsound_hdf5

from sft_jax.data.records import DataFileError
from sft_jax.data.sets.vggsound.files import read_vggsound

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vggsound")
    vggsound_hdf5.write(folder, classes=4, train=10, test=5)
    return folder


def _empty(folder, train_names, test_names, prefix="vgg"):
    vggsound_hdf5.write_empty(folder / f"{prefix}_train.h5py", train_names)
    vggsound_hdf5.write_empty(folder / f"{prefix}_test.h5py", test_names)
    return folder


def _ids(raw, split):
    """The ids of a split, without reading features: those that `read` gives, tested below."""
    path, rows, _ = raw.read.args[0][split]
    return [f"{path.stem.split('_')[1]}/{row:06d}" for row in rows]


@pytest.mark.parametrize("split", SPLITS)
def test_clips_are_those_of_the_file(folder, split):
    raw = read_vggsound(folder)
    records = list(raw.read(split))
    with h5py.File(folder / f"vgg_{'test' if split == 'test' else 'train'}.h5py") as file:
        names = sorted(set(file["class_name"][:]))
        for record in records:
            row = int(record["id"].split("/")[1])
            assert record["label"] == names.index(file["class_name"][row])
            for key in ("rgb", "spect", "flow"):
                np.testing.assert_array_equal(record["inputs"][key], file[key][row], strict=True)
    assert len(records) == raw.num_examples[split]
    assert [record["id"] for record in records] == _ids(raw, split)


def test_what_is_said_of_the_files(folder):
    raw = read_vggsound(str(folder))
    assert raw.variant == "vggsound4"
    assert raw.task == "single_label"
    assert raw.shapes == {"rgb": (38, 1024), "spect": (1200, 128), "flow": (38, 1024)}
    assert raw.class_names == tuple(sorted(vggsound_hdf5.class_names(4)))
    assert [path.name for path in raw.files] == ["vgg_train.h5py", "vgg_test.h5py"]
    assert raw.num_examples == {"train": 6, "valid": 4, "test": 5}


def test_every_row_is_in_one_split_in_order(folder):
    raw = read_vggsound(folder)
    ids = {split: _ids(raw, split) for split in SPLITS}
    assert all(names == sorted(names) for names in ids.values())
    assert sorted(ids["train"] + ids["valid"]) == [f"train/{row:06d}" for row in range(10)]
    assert ids["test"] == [f"test/{row:06d}" for row in range(5)]


def test_reading_survives_a_trip_to_another_process(folder):
    read = pickle.loads(pickle.dumps(read_vggsound(folder).read))
    assert [record["id"] for record in read("test")] == [f"test/{row:06d}" for row in range(5)]
    assert next(read("test"))["id"] == "test/000000"


def test_each_chunk_of_a_compressed_file_is_read_once(tmp_path, folder, monkeypatch):
    vggsound_hdf5.write(tmp_path, 4, 10, 5, chunks=(4, 19, 64), compression="lzf")
    slices = collections.Counter()
    getitem = h5py.Dataset.__getitem__

    def counting(dataset, key, **options):
        slices[dataset.name, str(key)] += 1
        return getitem(dataset, key, **options)

    plain = list(read_vggsound(folder).read("train"))
    raw = read_vggsound(tmp_path)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)
    for record, expected in zip(raw.read("train"), plain, strict=True):
        assert record["id"] == expected["id"]
        for key, values in expected["inputs"].items():
            np.testing.assert_array_equal(record["inputs"][key], values, strict=True)
    assert len(slices) == 9  # Ten rows are three chunks, of each of three datasets.
    assert set(slices.values()) == {1}


def test_a_record_does_not_hold_its_block(tmp_path):
    vggsound_hdf5.write(tmp_path, 2, 4, 2, chunks=(2, 38, 64))
    record = next(read_vggsound(tmp_path).read("train"))
    assert all(values.base is None for values in record["inputs"].values())


def test_numbers_that_are_not_finite_are_left(tmp_path):
    train, _ = vggsound_hdf5.write(tmp_path, 2, 4, 2)
    with h5py.File(train, "r+") as file:
        file["spect"][:, 7, 3] = [np.inf, -np.inf, np.nan, np.inf]
    records = [*read_vggsound(tmp_path).read("train"), *read_vggsound(tmp_path).read("valid")]
    assert not any(np.isfinite(record["inputs"]["spect"][7, 3]) for record in records)


def test_no_split_of_another_name(folder):
    with pytest.raises(ValueError, match="no split 'dev': there are train, valid, test"):
        next(read_vggsound(folder).read("dev"))


# Which rows are in which split.


@pytest.mark.parametrize("count", [5, 9, 10, 5748])
def test_the_authors_split_is_theirs(tmp_path, count):
    names = [f"c{index % 3}" for index in range(count)]
    raw = read_vggsound(_empty(tmp_path, names, names[:3]), split="authors")

    order = list(range(count))
    np.random.seed(1111)
    np.random.shuffle(order)
    cut = count - math.floor(0.2 * count)

    assert _ids(raw, "train") == [f"train/{row:06d}" for row in sorted(order[:cut])]
    assert _ids(raw, "valid") == [f"train/{row:06d}" for row in sorted(order[cut:])]


def test_the_authors_split_needs_five_clips(tmp_path):
    with pytest.raises(DataFileError, match=r"vgg_train.h5py has too few .*: 4 .* at least 5"):
        read_vggsound(_empty(tmp_path, ["a", "b"] * 2, ["a"]), split="authors")


def test_the_authors_split_does_not_touch_the_global_random_state(folder):
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    read_vggsound(folder, split="authors")
    assert np.random.rand() == expected


@pytest.mark.parametrize(("share", "valid"), [(0.2, (2, 20, 1, 0)), (0.5, (5, 50, 1, 0))])
def test_every_class_gives_its_share_to_validation(tmp_path, share, valid):
    names = np.repeat(["a", "b", "c", "d"], [10, 100, 2, 1])
    raw = read_vggsound(_empty(tmp_path, names, ["a"]), valid_share=share)
    labels = raw.read.args[0]["valid"].labels
    assert tuple(np.bincount(labels, minlength=4)) == valid
    assert raw.num_examples["train"] + raw.num_examples["valid"] == 113


def test_no_class_loses_all_its_clips_to_validation(tmp_path):
    raw = read_vggsound(_empty(tmp_path, ["a", "b"] * 2, ["a"]), valid_share=0.9)
    assert raw.num_examples == {"train": 2, "valid": 2, "test": 1}


def test_the_stratified_split_hangs_on_the_seed_alone(tmp_path):
    folder = _empty(tmp_path, ["a", "b", "c"] * 40, ["a"])
    valid = [_ids(read_vggsound(folder, seed=seed), "valid") for seed in (0, 0, 1)]
    assert valid[0] == valid[1] != valid[2]
    # What the split of a seed is must not change from one version to the next.
    assert valid[0][:4] == ["train/000000", "train/000004", "train/000014", "train/000016"]


def test_a_stratified_split_does_not_depend_on_other_classes(tmp_path):
    folder = _empty(tmp_path, ["a", "b", "c"] * 20, ["a", "c"])
    some, whole = (read_vggsound(folder, only_classes=names) for names in (("a", "c"), ()))
    for split in SPLITS:
        two_classes = [name for name in _ids(whole, split) if int(name[-6:]) % 3 != 1]
        assert _ids(some, split) == (_ids(whole, split) if split == "test" else two_classes)


def test_no_class_has_two_clips(tmp_path):
    with pytest.raises(DataFileError, match=r"too few clips to set some aside.*: 2 .* two of some"):
        read_vggsound(_empty(tmp_path, ["a", "b"], ["a"]))


# Which classes.


def test_a_test_file_without_a_class_shifts_no_other(tmp_path):
    raw = read_vggsound(_empty(tmp_path, ["b", "c", "a"] * 2, ["c", "a"]))
    assert raw.class_names == ("a", "b", "c")
    assert [record["label"] for record in raw.read("test")] == [2, 0]


def test_an_unknown_class_of_the_test_file_is_named(tmp_path):
    with pytest.raises(DataFileError, match=r"vgg_test.h5py has classes .* lacks: \['zebra'\]"):
        read_vggsound(_empty(tmp_path, ["a", "b"] * 2, ["a", "zebra"]))


@pytest.mark.parametrize("split", ["stratified", "authors"])
def test_classes_are_chosen_by_name(tmp_path, split):
    folder = _empty(tmp_path, ["a", "b", "c"] * 5, ["c", "b", "a"])
    raw = read_vggsound(folder, split=split, only_classes=["c", "b"])
    assert raw.class_names == ("b", "c")
    assert raw.variant == "vggsound3_only_2"
    for split in SPLITS:
        for record in raw.read(split):
            row = int(record["id"][-6:])
            expected = "cba"[row] if split == "test" else "abc"[row % 3]
            assert raw.class_names[record["label"]] == expected
    assert sum(raw.num_examples.values()) == 12


def test_a_class_that_is_not_there_is_named(folder):
    with pytest.raises(ValueError, match=r"'sound_70' is no class of .*did you mean sound_0"):
        read_vggsound(folder, only_classes=["sound_000", "sound_70"])


def test_the_test_file_must_have_clips_of_the_chosen_classes(tmp_path):
    folder = _empty(tmp_path, ["a", "b", "c"] * 5, ["c"])
    with pytest.raises(DataFileError, match=r"vgg_test.h5py has no clip of the classes"):
        read_vggsound(folder, only_classes=["a", "b"])


def test_the_files_of_100_classes_have_names_of_their_own(tmp_path):
    names = vggsound_hdf5.class_names(100)
    _empty(tmp_path, names * 2, names, prefix="vgg100")
    raw = read_vggsound(tmp_path, classes=100)
    assert raw.variant == "vggsound100"
    assert raw.num_examples == {"train": 100, "valid": 100, "test": 100}
    with pytest.raises(DataFileError, match=r"vgg_test.h5py; those of 100 classes are there"):
        read_vggsound(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 20}, "classes=20 is not one of 10, 100"),
        ({"split": "random"}, "split='random' is not one of stratified, authors"),
        ({"valid_share": 0.0}, r"valid_share=0.0 is not between 0 and 1"),
        ({"valid_share": math.nan}, r"valid_share=nan is not between 0 and 1"),
        ({"seed": -1}, "seed=-1 is not between"),
        ({"only_classes": "sound"}, "only_classes='sound' must be at least two names"),
        ({"only_classes": ["a"]}, "must be at least two names"),
        ({"only_classes": ["a", "b", "a"]}, "names a class twice"),
    ],
)
def test_arguments_are_checked(folder, options, message):
    with pytest.raises(ValueError, match=message):
        read_vggsound(folder, **options)


# Files that are not what they should be.


def test_missing_files_are_named_with_their_folder(tmp_path):
    with pytest.raises(DataFileError, match=r"no vgg_train.h5py and no vgg_test.h5py in .*"):
        read_vggsound(tmp_path / "nowhere")


def test_all_problems_of_both_files_are_told_at_once(tmp_path):
    _empty(tmp_path, ["a", "b"] * 3, ["a", "b"])
    with h5py.File(tmp_path / "vgg_train.h5py", "r+") as file:
        del file["flow"], file["spect"], file["class_name"]
        file["spect"] = np.zeros((6, 1024))
        file["class_name"] = np.zeros(6)
    with h5py.File(tmp_path / "vgg_test.h5py", "r+") as file:
        del file["rgb"]
        file["rgb"] = np.zeros((3, 38, 1024), np.float32)
    with pytest.raises(DataFileError) as error:
        read_vggsound(tmp_path)
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert "vgg_train.h5py: spect has shape (6, 1024), expected [n, 1200, 128]" in lines[0]
    assert "no dataset 'flow'; there are class_name, labels, rgb, spect" in lines[1]
    assert "class_name has shape (6,) and type float64, expected [n] names" in lines[2]
    assert "vgg_test.h5py: the datasets differ" in lines[3]
    assert "'rgb': 3, 'spect': 2" in lines[3]


def test_one_file_may_be_missing_and_the_other_damaged(tmp_path):
    (tmp_path / "vgg_test.h5py").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataFileError, match=r"(?s)no vgg_train.h5py.*vgg_test.h5py is damaged"):
        read_vggsound(tmp_path)


def test_features_must_be_numbers(tmp_path):
    _empty(tmp_path, ["a", "b"] * 3, ["a", "b"])
    with h5py.File(tmp_path / "vgg_test.h5py", "r+") as file:
        del file["rgb"]
        file.create_dataset("rgb", (2, 38, 1024), "S1")
    with pytest.raises(DataFileError, match=r"rgb holds \|S1, expected integers or floats"):
        read_vggsound(tmp_path)


def test_files_without_clips(tmp_path):
    with pytest.raises(DataFileError, match=r"vgg_test.h5py: there are no clips in it"):
        read_vggsound(_empty(tmp_path, ["a", "b"] * 3, []))


def test_a_single_class_is_nothing_to_learn(tmp_path):
    with pytest.raises(DataFileError, match="a single class, 'a'; at least two"):
        read_vggsound(_empty(tmp_path, ["a"] * 6, ["a"]))


def test_a_file_cut_short_is_named(tmp_path):
    train, _ = vggsound_hdf5.write(tmp_path, 2, 4, 2)
    with open(train, "r+b") as file:
        file.truncate(train.stat().st_size // 2)
    with pytest.raises(DataFileError, match=r"vgg_train.h5py is damaged, cut short or no HDF5"):
        read_vggsound(tmp_path)


def test_damage_inside_is_told_where_it_is_met(tmp_path):
    train, _ = vggsound_hdf5.write(
        tmp_path, 2, 4, 2, chunks=(1, 38, 64), compression="gzip", compression_opts=1
    )
    with h5py.File(train) as file:
        where = file["rgb"].id.get_chunk_info_by_coord((2, 0, 0)).byte_offset
    with open(train, "r+b") as file:
        file.seek(where)
        file.write(b"\0" * 100)
    raw = read_vggsound(tmp_path)
    with pytest.raises(DataFileError, match=r"vgg_train.h5py: /rgb is damaged near row 2"):
        list(raw.read("train")) + list(raw.read("valid"))


def test_names_may_be_text_of_any_length(tmp_path):
    _empty(tmp_path, ["a", "b"] * 3, ["a", "b"])
    for split, count in (("train", 3), ("test", 1)):
        with h5py.File(tmp_path / f"vgg_{split}.h5py", "r+") as file:
            del file["class_name"]
            file["class_name"] = ["été", "rain"] * count
    assert read_vggsound(tmp_path).class_names == ("rain", "été")


def test_a_missing_package_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sft_jax\[vggsound\]'"):
        read_vggsound(folder)
