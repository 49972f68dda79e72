import importlib.metadata
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from absl import logging

from sft_jax.data import prepared, registry
from sft_jax.data.sets.watch import entry, recordings

SIDE_NAMES = {0.0: "left", 1.0: "right"}


def _prepare(data_dir, window=4.0, stride=1.0):
    return registry.prepare_dataset(
        entry.WatchData(data_dir=data_dir, window_seconds=window, stride_seconds=stride)
    )


def _read(data_dir, *people, **windows):
    splits = [entry.split_name(person) for person in people]
    return [*_prepare(data_dir, **windows).records(splits)]


@pytest.mark.parametrize("person", [1, 3, 10])
def test_windows_are_those_cut_by_hand(raw, data_dir, person):
    expected = {}
    for values, label, subject, side in zip(
        raw["X"], raw["y"], raw["subject"], raw["side"], strict=True
    ):
        start = 0
        while subject == person and start + 200 <= len(values):
            key = f"person{person:02d}/{SIDE_NAMES[side]}/{raw['y_labels'][label]}/@{start}"
            expected[key] = (values[start : start + 200], label)
            start += 50

    examples = _read(data_dir, person)

    assert [e["id"] for e in examples] == list(expected)
    for example in examples:
        values, label = expected[example["id"]]
        np.testing.assert_array_equal(example["inputs"]["accelerometer"], values[:, :3])
        np.testing.assert_array_equal(example["inputs"]["gyroscope"], values[:, 3:])
        assert example["label"] == label


def test_neighbouring_windows_overlap_by_three_seconds(data_dir):
    first, second = (e["inputs"]["gyroscope"] for e in _read(data_dir, 1)[:2])
    np.testing.assert_array_equal(first[50:], second[:150])


def test_every_person_has_a_split_of_their_own(raw, data_dir):
    seen = set()
    for person in recordings.PEOPLE:
        ids = [e["id"] for e in _read(data_dir, person)]
        lengths = [len(x) for x, s in zip(raw["X"], raw["subject"], strict=True) if s == person]
        assert len(ids) == sum((length - 200) // 50 + 1 for length in lengths)
        assert all(name.startswith(f"person{person:02d}/") for name in ids)
        assert not seen.intersection(ids)
        seen.update(ids)
    assert len(seen) == 4397


def test_names_are_those_of_the_file(raw, data_dir):
    assert list(recordings.EXERCISES) == raw["y_labels"]
    assert raw["X_labels"] == ["ax", "ay", "az", "wx", "wy", "wz"]
    assert _prepare(data_dir).card.class_names == recordings.EXERCISES


def test_people_are_read_in_the_order_given(data_dir):
    ids = [e["id"] for e in _read(data_dir, 4, 2)]
    assert ids == [e["id"] for person in (4, 2) for e in _read(data_dir, person)]


def test_other_windows_are_kept_apart(data_dir, tmp_path):
    directory = str(tmp_path)
    short = _read(directory, 3, window=2.5, stride=10.0)
    long = _read(directory, 3, window=4.0, stride=10.0)
    assert short[0]["inputs"]["gyroscope"].shape == (125, 3)
    assert long[0]["inputs"]["gyroscope"].shape == (200, 3)
    assert {path.name for path in (tmp_path / "watch").iterdir()} == {
        "window_2.5s_stride_10s",
        "window_4s_stride_10s",
    }


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    data = _prepare("~/data", stride=20.0)
    assert data.data_path.is_relative_to(tmp_path / "data")


def test_data_is_prepared_once(data_dir, monkeypatch):
    monkeypatch.setattr(prepared.PreparedData, "download_and_prepare", None)
    _prepare(data_dir, stride=1.0)


def test_preparing_prints_nothing(tmp_path, capfd):
    verbosity = logging.get_verbosity()
    _prepare(str(tmp_path), stride=15.0)
    assert capfd.readouterr() == ("", "")
    assert logging.get_verbosity() == verbosity


@pytest.mark.parametrize(("window", "stride"), [(4.03, 1.0), (4.0, 0.01)])
def test_durations_must_be_whole_samples(tmp_path, window, stride):
    with pytest.raises(ValueError, match=r"(window|stride)_seconds=.* whole number of samples"):
        _prepare(str(tmp_path), window, stride)


def test_a_window_longer_than_the_recordings(tmp_path):
    with pytest.raises(ValueError, match=r"longer than every recording of people \[.*at most \d"):
        _prepare(str(tmp_path), 45.0)
    assert not list(tmp_path.rglob("1.2.0"))


def test_an_unwritable_data_dir_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    with pytest.raises(OSError, match=r"cannot write to data_dir='.*/file'"):
        _prepare(str(blocked), stride=1.0)


def test_prepared_data_needs_no_write_access_nor_package(data_dir, monkeypatch):
    def fail(*_, **__):
        raise AssertionError

    monkeypatch.setattr(prepared, "require_writable", fail)
    monkeypatch.setattr(entry, "read_recordings", fail)
    assert len(_read(data_dir, 4)) == 267


def test_a_missing_package_names_the_extra(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sft_jax\[watch\]'"):
        recordings.read_recordings()


class _Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


def test_an_unknown_file_is_not_unpickled(tmp_path, monkeypatch):
    went_off = tmp_path / "went_off"
    monkeypatch.setenv("BOMB", str(went_off))
    file = tmp_path / "watch_dataset.npy"
    file.write_bytes(pickle.dumps(_Bomb()))

    class Package:
        def locate_file(self, _):
            return file

    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Package())
    with pytest.raises(ValueError, match="not unpickled: its sha256 is"):
        recordings.read_recordings()
    assert not went_off.exists()


@pytest.mark.process
def test_a_killed_preparation_is_done_again(tmp_path):
    program = """
import os, sys
from sft_jax.data import registry
from sft_jax.data.sets.watch import entry

whole = entry._record
def killed_at_person_5(recording, start, window):
    if recording.person == 5:
        os._exit(9)
    return whole(recording, start, window)

entry._record = killed_at_person_5
registry.prepare_dataset(entry.WatchData(data_dir=sys.argv[1], stride_seconds=10.0))
"""
    root = pathlib.Path(__file__).parents[3]
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root)
    assert killed.returncode == 9
    assert list(tmp_path.rglob("*person_04*"))  # It had got somewhere.
    assert not list(tmp_path.rglob("1.2.0"))
    card = _prepare(str(tmp_path), stride=10.0).card
    for person in recordings.PEOPLE:
        split = entry.split_name(person)
        assert card.splits[split].n_examples == len(_read(str(tmp_path), person, stride=10.0))


def test_another_process_may_finish_first(tmp_path, monkeypatch):
    prepare = prepared.PreparedData.download_and_prepare

    def beaten(self, **options):
        prepare(self, **options)
        raise OSError("Directory not empty")

    monkeypatch.setattr(prepared.PreparedData, "download_and_prepare", beaten)
    assert _read(str(tmp_path), 4, stride=20.0)


def test_a_full_disk_is_not_hidden(tmp_path, monkeypatch):
    def full(self, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(prepared.PreparedData, "download_and_prepare", full)
    with pytest.raises(OSError, match="No space left"):
        _prepare(str(tmp_path), stride=1.0)


def test_damaged_data_is_reported(tmp_path):
    data = _prepare(str(tmp_path), stride=20.0)
    (data.data_path / "dataset_info.json").unlink()
    with pytest.raises(ValueError, match="damaged; remove it"):
        _prepare(str(tmp_path), stride=20.0)
