"""The raw files of HAPT, and what is wrong with bad ones."""

import hapt_texts
import numpy as np
import pytest

from sft_jax.data.records import DataFileError
from sft_jax.data.sets.hapt.files import (
    ACTIVITIES,
    Recording,
    Segment,
    find_files,
    is_hapt,
    read_recordings,
)
from sft_jax.data.sets.hapt.windows import cut, longest

SAMPLES = 150


@pytest.fixture(scope="module")
def texts():
    return hapt_texts.texts(SAMPLES)


def _written(folder, texts, **changed):
    """A folder with the files of two people, some of them changed or left out."""
    lines = texts["labels.txt"].splitlines(keepends=True)
    own = {"labels.txt": "".join(line for line in lines if line[:2] in ("1 ", "2 "))}
    files = {name: text for name, text in texts.items() if name[-6:-4] in ("01", "02")}
    for name, text in (files | own | changed).items():
        if text is not None:
            (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("packed", [True, False])
def test_recordings_are_those_of_the_files(tmp_path, packed):
    hapt_texts.write(tmp_path / "deep", SAMPLES, packed)
    path = find_files(tmp_path)
    assert path.name == ("RawData.tar.xz" if packed else "RawData")
    recordings = read_recordings(path)
    assert [r.person for r in recordings] == [r.number for r in recordings] == [*range(1, 31)]
    for recording in recordings:
        expected = hapt_texts.values(recording.number, "gyro", SAMPLES)
        np.testing.assert_array_equal(recording.values["gyroscope"], np.float32(expected))
        assert [(a + 1, b + 1, c) for a, b, c in recording.segments] == hapt_texts.segments(
            recording.number, SAMPLES
        )


def test_files_are_recognised_by_their_names():
    names = ("RawData", "RawData.tar.xz", "acc_exp01_user01.txt", "gyro_exp61_user30.txt")
    assert all(map(is_hapt, names))
    assert not any(map(is_hapt, ("labels.txt", "RawData2", "acc.txt", "README.txt")))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels.txt": None}, "has no folder RawData with labels.txt"),
        ({"gyro_exp02_user02.txt": None}, "recording 2 of person 2 is only .* gyro files"),
        ({"labels.txt": "1 1 5 21 60\n"}, "recording 2 of person 2 is only .* labels.txt"),
        ({"acc_exp01_user01.txt": "1 2\n3 4\n"}, "acc_exp01_user01.txt has 2 columns, expected 3"),
        ({"acc_exp01_user01.txt": "1 2 x\n"}, "acc_exp01_user01.txt is not a table of numbers"),
        ({"acc_exp01_user01.txt": "1 2 nan\n"}, "expected 3 of finite numbers"),
        ({"gyro_exp01_user01.txt": "1 2 3\n"}, "lengths of the sensors differ: .*150.*: 1"),
        ({"labels.txt": "1 1 13 1 9\n2 2 1 1 9\n"}, "activity 13 from 1 to 9, expected .* 1 to 12"),
        ({"labels.txt": "1 1 3 0 9\n2 2 1 1 9\n"}, "from 0 to 9, expected .* within 1 to 150"),
        ({"labels.txt": "1 1 3 90 151\n2 2 1 1 9\n"}, "from 90 to 151, expected .* 1 to 150"),
        ({"labels.txt": "1 1 3 9 20\n1 1 4 5 9\n2 2 1 1 9\n"}, "from 9 to 20 overlaps .* at 9"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, texts, changed, message):
    folder = _written(tmp_path, texts, **changed)
    with pytest.raises(DataFileError, match=message):
        read_recordings(find_files(folder))


def test_an_unknown_person_is_named(tmp_path):
    for sensor in ("acc", "gyro"):
        (tmp_path / f"{sensor}_exp01_user31.txt").write_text("1 2 3\n")
    (tmp_path / "labels.txt").write_text("1 31 5 1 1\n")
    with pytest.raises(DataFileError, match="person 31: expected a person from 1 to 30"):
        read_recordings(tmp_path)


def test_a_damaged_archive_is_named(tmp_path):
    hapt_texts.write(tmp_path, SAMPLES, packed=True)
    path = tmp_path / "RawData.tar.xz"
    content = path.read_bytes()
    for damaged in (content[:5000], content[:5000] + bytes(100) + content[5100:], b"none"):
        path.write_bytes(damaged)
        with pytest.raises(DataFileError, match=r"RawData.tar.xz is a damaged archive"):
            read_recordings(path)


def _recording(*segments, samples=400):
    values = {"accelerometer": np.zeros((samples, 3), np.float32)}
    return Recording(1, 1, values, tuple(Segment(*segment) for segment in segments))


def test_a_label_takes_half_a_second_of_the_window():
    # Two stretches of activity 2 count together, as far as they lie in the window.
    stretches = [(0, 0, 24), (1, 30, 55), (2, 60, 73), (2, 88, 108), (3, 226, 400)]
    windows = cut(_recording(*stretches), "tagging", window=100, stride=150)
    labels = {window.start: np.flatnonzero(window.label).tolist() for window in windows}
    assert labels == {0: [1, 2], 300: [3]}  # Of the one at 150, 24 samples are labelled.
    assert windows[0].label.shape == (len(ACTIVITIES),)


def test_a_window_of_an_activity_lies_within_it():
    recording = _recording((0, 10, 60), (1, 60, 159), (2, 160, 260))
    assert cut(recording, "activity", window=50, stride=25) == [
        (10, 0),
        (60, 1),
        (85, 1),
        (160, 2),
        (185, 2),
        (210, 2),
    ]
    assert (longest(recording, "activity"), longest(recording, "tagging")) == (100, 400)
    assert longest(_recording(), "tagging") == 0
