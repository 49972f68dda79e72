"""PhysioNet 2012: files of stays, their events, and splits."""

import dataclasses

import numpy as np
import physionet_archives
import pytest
from opened import assert_same_without

from sft_jax.data import registry
from sft_jax.data.records import DataFileError
from sft_jax.data.sets.physionet2012.codes import EVENTS, STATIC
from sft_jax.data.sets.physionet2012.entry import PhysioNet2012Data
from sft_jax.data.sets.physionet2012.events import binned
from sft_jax.data.sets.physionet2012.files import TYPES, read_set
from sft_jax.data.sets.physionet2012.statistics import COLUMNS, NAMES, statistics

FIRST = physionet_archives.FIRST["a"]


def _data(folder, **fields):
    return PhysioNet2012Data(
        data_dir=str(folder / "data"), manual_dir=str(folder / "raw"), **fields
    )


def _stay(folder, *lines, header=physionet_archives.HEADER):
    """The first stay of set a, read from lines."""
    physionet_archives.write(folder, 3, sets="a", changes={FIRST: [header, *lines]})
    return read_set(folder, "a")[0]


def _rows(events, name):
    return [(hour, TYPES[name][int(kind)], value) for hour, kind, value in events[name].tolist()]


def _ids(raw):
    return {split: [record["id"] for record in raw.read(split)] for split in raw.num_examples}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("physionet")
    # Without laboratory values.
    lines = [physionet_archives.HEADER, "00:00,Age,70", "01:00,HR,80"]
    changes = {physionet_archives.FIRST["b"]: lines}
    physionet_archives.write(folder / "raw", stays=15, changes=changes)
    return folder


def test_lines_become_events_of_their_modality(tmp_path):
    lines = ["00:00,RecordID,1", "00:00,Age,54", "00:00,Age,70", "00:00,ICUType,3"]
    lines += ["00:00,Weight,80", "00:30,Weight,81", "47:30,HR,73", "47:30,Lactate,1", "01:00,,3"]
    stay = _stay(tmp_path, *lines)
    assert (stay.number, stay.died, stay.days) == (FIRST, 1, -1)
    static = [(0.0, "Age", 54.0), (0.0, "medical", 1.0), (0.0, "Weight", 80.0)]
    assert _rows(stay.inputs, "static") == static
    assert _rows(stay.inputs, "vitals") == [(0.5, "Weight", 81.0), (47.5, "HR", 73.0)]
    # Lactate is skewed.
    assert _rows(stay.inputs, "labs") == [(47.5, "Lactate", np.log1p(np.float32(1)))]


def test_unknown_and_implausible_values_are_no_events(tmp_path):
    lines = ["00:00,Height,-1", "00:00,Weight,-1", "00:00,Age,201", "01:00,pH,735"]
    lines += ["01:00,Temp,0", "01:00,DiasABP,-1", "01:00,HR,72"]
    events = _stay(tmp_path, *lines).inputs
    assert _rows(events, "static") == [(0.0, "Age", 90.0)]
    assert _rows(events, "vitals") == [(1.0, "HR", 72.0)]
    assert "labs" not in events


def test_ranges_hold_plausible_values():
    for codes in (STATIC, *EVENTS.values()):
        assert all(code.lowest <= code.highest for code in codes.values())
    assert not set(EVENTS["vitals"]) & set(EVENTS["labs"])


def test_bins_hold_means_by_type():
    events = [[0.25, 1, 4], [0.75, 1, 8], [0.5, 0, 7], [1.0, 1, 2]]
    events = np.array(events, np.float32)
    expected = [[0.5, 0, 7], [0.5, 1, 6], [1.0, 1, 2]]
    np.testing.assert_array_equal(binned(events, 1.0), expected)
    assert binned(events, 0) is events


def test_statistics_are_of_each_measurement():
    none = np.zeros((0, 3))
    events = np.array([[0, 1, 80], [1, 1, 60], [2, 1, 70], [3, 9, 37]])
    table = statistics({"vitals": events, "labs": none}).reshape(-1, len(NAMES))
    np.testing.assert_allclose(table[1], [70, 70, 60, 80, np.log(4)])
    np.testing.assert_allclose(table[9], [37, 37, 37, 37, np.log(2)])
    assert np.isnan(table[[0, 36], :4]).all()
    assert not table[[0, 36], 4].any()
    assert table.size == COLUMNS


def test_unknown_statistics_are_the_means_of_training(folder):
    raw = _data(folder).read(folder / "raw")
    lactate = {split: {} for split in ("train", "test")}
    place = (len(EVENTS["vitals"]) + [*EVENTS["labs"]].index("Lactate")) * len(NAMES)
    for split, own in lactate.items():
        for record in raw.read(split):
            known = "labs" in record["inputs"]
            own.setdefault(known, []).append(record["inputs"]["statistics"][0, place])
    assert len(lactate["test"][False]) == 1
    np.testing.assert_allclose(lactate["test"][False], np.mean(lactate["train"][True]))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["00:00,Age"], r"set-a.tar.gz: set-a.132539.txt, line 2: '00:00,Age' is not TIME,PARAM"),
        (["0,Age,54"], r"line 2: '0,Age,54' is not"),
        (["00:00,Age,old"], r"line 2: '00:00,Age,old' is not"),
        (["00:00,Mood,3"], r"line 2: unknown parameter 'Mood', known are Age, Gender, Height"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, lines, message):
    with pytest.raises(DataFileError, match=message):
        _stay(tmp_path, *lines)


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(DataFileError, match="begins with \\['Time', 'Value'\\], expected"):
        _stay(tmp_path, header="Time,Value")
    physionet_archives.write(tmp_path, 3, sets="a")
    table, archive = tmp_path / "Outcomes-a.txt", tmp_path / "set-a.tar.gz"
    good, content = table.read_text(), archive.read_bytes()
    table.write_text(good.replace(f"{FIRST},6,1,-1,-1,1", f"{FIRST},6,1,-1,-1,2"))
    with pytest.raises(DataFileError, match="In-hospital_death is 2, expected 0 or 1"):
        read_set(tmp_path, "a")
    table.write_text(good.splitlines()[0])
    with pytest.raises(DataFileError, match=r"Outcomes-a.txt has no line of the stay 132539"):
        read_set(tmp_path, "a")
    table.write_text(good)
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataFileError, match=r"set-a.tar.gz is damaged or cut short"):
        read_set(tmp_path, "a")
    archive.unlink()
    with pytest.raises(DataFileError, match=r"there is no set-a.tar.gz in .* of set a of"):
        read_set(tmp_path, "a")


def test_splits_are_of_the_sets(folder):
    raw = _data(folder).read(folder / "raw")
    ids = _ids(raw)
    assert raw.num_examples == {"train": 12, "valid": 3, "test": 30}
    assert sorted(ids["train"] + ids["valid"]) == [str(FIRST + i) for i in range(15)]
    assert {len(own & {*ids["train"]}) for own in ({*ids["valid"]}, {*ids["test"]})} == {0}
    assert sorted(record["label"] for record in raw.read("valid")) == [0, 0, 1]


def test_folds_are_of_the_training_sets_alone(folder):
    tested = []
    for fold in range(5):
        raw = _data(folder, folds=5, fold=fold).read(folder / "raw")
        assert raw.num_examples == {"train": 9, "valid": 3, "test": 3}
        tested += _ids(raw)["test"]
    assert sorted(tested) == [str(FIRST + i) for i in range(15)]


def test_types_that_training_lacks_are_left_out(folder):
    """Set a has no unit in some copies, so that a model could not learn from it."""
    units = {}
    for train, test in (("a", "b"), ("b", "c")):
        raw = _data(folder, train_sets=(train,), test_sets=(test,)).read(folder / "raw")
        types = {int(t) for r in raw.read("test") for t in r["inputs"]["static"][:, 1]}
        units[train] = types & set(range(4, 8))
    assert not units["a"]
    assert units["b"]


def test_unknown_days_of_stay_are_left_out(folder):
    raw = _data(folder, target="stay").read(folder / "raw")
    labels = [float(r["label"][0]) for split in raw.num_examples for r in raw.read(split)]
    assert (raw.task, len(labels)) == ("regression", 3 * 14)
    assert min(labels) == 6


def test_stays_are_prepared_once(folder):
    config = _data(folder, bin_hours=2.0)
    dataset = registry.open_dataset(config)
    kinds = {name: spec.kind for name, spec in dataset.info.modalities.items()}
    assert kinds == {**dict.fromkeys(TYPES, "events"), "statistics": "vector"}
    assert dataset.info.class_names == ("survived", "died")
    assert dataset.source("test")[1]["masks"]["labs"].sum() == 1
    assert_same_without(config.manual_dir, config)
    other = dataclasses.replace(config, bin_hours=0.0)
    assert registry.open_dataset(other).info.modalities["vitals"].length > 8


@pytest.mark.parametrize(
    "fields", [{"train_sets": ("a", "b")}, {"test_sets": ()}, {"train_sets": ("a", "a")}]
)
def test_sets_must_be_disjoint_and_named(fields):
    with pytest.raises(ValueError, match=r"train_sets=.*each must name at least one of a, b, c"):
        PhysioNet2012Data(**fields)
