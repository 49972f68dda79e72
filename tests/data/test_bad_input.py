"""Raw files that are not what they should be: a clear error, and nothing is left behind."""

import contextlib
import gzip
import os
import pickle
import subprocess

import av_mnist_files
import h5py
import npz_examples
import numpy as np
import pytest
import vggsound_hdf5

from sft_jax.data import registry
from sft_jax.data.sets.av_mnist.entry import AvMnistData
from sft_jax.data.sets.npz_folder.entry import FolderData
from sft_jax.data.sets.sentiment.entry import MosiData
from sft_jax.data.sets.vggsound.entry import VggSoundData


def _sentiments(folder, **changes):
    """A small file of MulT's form; a change is `split_key=value`."""
    (folder / "raw").mkdir()
    random = np.random.default_rng(0)
    content = {}
    for split in ("train", "valid", "test"):
        content[split] = {
            name: random.normal(size=(2, steps, features))
            for name, steps, features in (("vision", 4, 3), ("audio", 5, 2), ("text", 3, 6))
        }
        content[split]["labels"] = np.array([-1.5, 3.0]).reshape(2, 1, 1)
        content[split]["id"] = np.array([f"{split}0", f"{split}1"])
    for name, value in changes.items():
        split, key = name.split("_")
        content[split][key] = value
    path = folder / "raw" / "mosi_data_noalign.pkl"
    path.write_bytes(pickle.dumps(content, 4))
    return MosiData(data_dir=str(folder / "data"), manual_dir=str(folder / "raw"))


def _clips(folder, train=8, test=2):
    """Features that are all 0, of two classes: they take no room."""
    (folder / "raw").mkdir()
    for split, count in (("train", train), ("test", test)):
        vggsound_hdf5.write_empty(folder / "raw" / f"vgg_{split}.h5py", ["a", "b"] * (count // 2))
    return VggSoundData(data_dir=str(folder / "data"), manual_dir=str(folder / "raw"))


def _digits(folder):
    av_mnist_files.write(folder / "raw", train=12, test=1, speakers=("ann",), count=11)
    return AvMnistData(
        data_dir=str(folder / "data"),
        manual_dir=str(folder / "raw"),
        train_pairs=2,
        valid_pairs=1,
        test_pairs=1,
    )


def _npz(folder, **labels):
    splits = {"train": ["a", "b"], "valid": ["a"], "test": ["b"]} | labels
    npz_examples.write_labels(folder / "raw", splits)
    return FolderData(data_dir=str(folder / "data"), manual_dir=str(folder / "raw"))


def _cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def _nothing_is_left(folder):
    data = folder / "data"
    assert not [*data.rglob("1.1.0"), *data.rglob("*incomplete*"), *data.rglob("*.json")]


def _assert_refused(folder, config, message, kind=ValueError):
    with pytest.raises(kind, match=message):
        registry.open_dataset(config)
    _nothing_is_left(folder)


def test_a_sound_file_of_each_kind_is_accepted(tmp_path):
    for make in (_sentiments, _clips, _npz):
        folder = tmp_path / make.__name__
        folder.mkdir()
        assert registry.open_dataset(make(folder)).source("test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_vision": np.ones((2, 4))}, r"train/vision: float64 of shape \(2, 4\), expected"),
        ({"test_text": np.ones((2, 3, 5))}, "text: the splits differ in the number of features"),
        ({"valid_audio": np.ones((3, 5, 2))}, "valid: the keys differ in the number of examples"),
        ({"test_labels": np.array([0.0, 3.5])}, "test/labels: example 1 has label 3.5, expected"),
        ({"test_labels": np.array([0.0, np.nan])}, "test/labels: example 1 has label nan"),
        (
            {f"valid_{key}": np.ones((0, 2, 2)) for key in ("vision", "audio", "text", "labels")},
            "valid/vision: float64 of shape .* at least one of each",
        ),
    ],
)
def test_sentiments_of_another_form(tmp_path, changes, message):
    config = _sentiments(tmp_path, **changes)
    _assert_refused(tmp_path, config, rf"mosi_data_noalign.pkl is not a file(.|\n)*{message}")


def test_sentiments_that_cannot_be_read(tmp_path):
    config = _sentiments(tmp_path)
    path = tmp_path / "raw" / "mosi_data_noalign.pkl"
    whole = path.read_bytes()
    _cut(path)
    _assert_refused(tmp_path, config, "mosi_data_noalign.pkl")
    path.write_bytes(pickle.dumps({"train": {}, "valid": {}, "dev": {}}))
    _assert_refused(tmp_path, config, "no split 'test': there are train, valid, dev")
    path.write_bytes(pickle.dumps({split: {"x": 1} for split in ("train", "valid", "test")}))
    _assert_refused(tmp_path, config, "train: no key 'vision': there are x")
    path.write_bytes(whole)
    assert len(registry.open_dataset(config).source("train")) == 2


class _Bomb:
    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (self._path,)


def test_a_hostile_pickle_is_refused_and_does_nothing(tmp_path):
    config = _sentiments(tmp_path, train_raw=_Bomb(str(tmp_path / "went_off")))
    _assert_refused(tmp_path, config, r"mosi_data_noalign.pkl.*mkdir")
    assert not (tmp_path / "went_off").exists()


def test_sentiments_that_are_not_finite_and_refused(tmp_path):
    audio = np.ones((2, 5, 2))
    audio[1, 2, 0] = -np.inf
    config = _sentiments(tmp_path, valid_audio=audio)
    refusing = MosiData(
        name="mosi", data_dir=config.data_dir, manual_dir=config.manual_dir, not_finite="error"
    )
    _assert_refused(tmp_path, refusing, "example 'valid1': audio holds 1 -inf; .* set not_finite")
    assert registry.open_dataset(config).info.num_examples["valid"] == 2


@contextlib.contextmanager
def _opened(folder, split="train"):
    with h5py.File(folder / "raw" / f"vgg_{split}.h5py", "r+") as file:
        yield file


def _no_flow(file):
    del file["flow"]


def _other_shape(file):
    del file["rgb"]
    file.create_dataset("rgb", (8, 38, 512), np.float32)


def _a_nan(file):
    file["spect"][3, 7, 5] = np.nan


def _unknown_class(file):
    file["class_name"][0] = b"c"


@pytest.mark.parametrize(
    ("split", "damage", "message"),
    [
        ("train", _no_flow, "vgg_train.h5py: no dataset 'flow'; there are class_name, labels, rgb"),
        ("train", _other_shape, r"rgb has shape \(8, 38, 512\), expected \[n, 38, 1024\]"),
        ("train", _a_nan, "example 'train/000003': spect holds 1 nan; .* set not_finite"),
        ("test", _unknown_class, r"has classes that vgg_train.h5py lacks: \['c'\]"),
    ],
)
def test_clips_of_another_form(tmp_path, split, damage, message):
    config = _clips(tmp_path)
    with _opened(tmp_path, split) as file:
        damage(file)
    _assert_refused(tmp_path, config, message)


def test_clips_that_cannot_be_read(tmp_path):
    config = _clips(tmp_path)
    _cut(tmp_path / "raw" / "vgg_train.h5py")
    _assert_refused(tmp_path, config, "vgg_train.h5py is damaged, cut short or no HDF5 file")
    (tmp_path / "raw" / "vgg_train.h5py").unlink()
    _assert_refused(tmp_path, config, "there is no vgg_train.h5py in")


def test_splits_of_clips_without_any(tmp_path):
    _assert_refused(tmp_path, _clips(tmp_path, test=0), "vgg_test.h5py: there are no clips in it")


def test_digits_that_cannot_be_read(tmp_path):
    config = _digits(tmp_path)
    images, labels = (
        tmp_path / "raw" / "mnist" / f"train-{kind}-ubyte.gz"
        for kind in ("images-idx3", "labels-idx1")
    )
    whole = labels.read_bytes()
    labels.write_bytes(gzip.compress(av_mnist_files.idx(np.full(12, 11, np.uint8))))
    _assert_refused(tmp_path, config, "train-labels.* has the label 11, expected 0 to 9")
    labels.write_bytes(whole)
    _cut(images)
    _assert_refused(tmp_path, config, "train-images-idx3-ubyte.gz")
    images.unlink()
    _assert_refused(tmp_path, config, "lack:\n  train-images-idx3-ubyte")


def test_more_pairs_than_images(tmp_path):
    config = _digits(tmp_path)
    many = AvMnistData(data_dir=config.data_dir, manual_dir=config.manual_dir, train_pairs=12)
    _assert_refused(tmp_path, many, "train_pairs=12 must be at most 11, one for each image")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 3), np.nan), "example '1': x holds 6 nan; .* set not_finite"),
        (np.ones((2, 4)), r"1.npz: a step of x has shape \(4,\), expected \(3,\)"),
        (np.array(["a"]), "1.npz: x holds <U1, expected integers or floats"),
    ],
)
def test_arrays_of_another_form(tmp_path, array, message):
    config = _npz(tmp_path)
    npz_examples.write_example(tmp_path / "raw", "1.npz", x=array)
    _assert_refused(tmp_path, config, message)


def test_a_folder_that_cannot_be_read(tmp_path):
    config = _npz(tmp_path)
    _cut(tmp_path / "raw" / "2.npz")
    _assert_refused(tmp_path, config, r"2.npz: it cannot be read as a .npz file")
    (tmp_path / "raw" / "2.npz").unlink()
    _assert_refused(tmp_path, config, r"2.npz: there is no such file")


@pytest.mark.parametrize(
    ("labels", "message"),
    [({"valid": []}, "no example of split 'valid'"), ({"test": ["c"]}, "'c'")],
)
def test_labels_of_a_folder(tmp_path, labels, message):
    _assert_refused(tmp_path, _npz(tmp_path, **labels), rf"manifest.csv:\n(.|\n)*{message}")


@pytest.mark.parametrize("make", [_sentiments, _clips, _digits])
def test_no_raw_files(tmp_path, make):
    config = make(tmp_path)
    (tmp_path / "raw").rename(tmp_path / "away")
    message = rf"no folder {tmp_path}/raw with the raw files of .*manual_dir.* It takes"
    _assert_refused(tmp_path, config, message, FileNotFoundError)
    (tmp_path / "raw").mkdir()
    _assert_refused(tmp_path, config, message, FileNotFoundError)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_holds_no_prepared_data(tmp_path, small_disk):
    config = _npz(tmp_path)
    noise = np.random.default_rng(0).normal(size=(20_000, 3))
    npz_examples.write_example(tmp_path / "raw", "1.npz", x=noise)
    full = FolderData(data_dir=str(small_disk), manual_dir=config.manual_dir)
    for _ in range(2):  # Nor is it taken for prepared the second time.
        with pytest.raises(OSError, match=rf"cannot write to data_dir='{small_disk}'.*No space"):
            registry.open_dataset(full)
        assert not [path for path in small_disk.rglob("*") if path.is_file()]
        with pytest.raises(FileNotFoundError, match="has not been prepared"):
            registry.prepared_card(full)
    assert len(registry.open_dataset(config).source("train")) == 2
