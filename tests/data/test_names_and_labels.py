"""Names of classes and labels that are not what they should be, by every way in."""

import dataclasses
import enum
import json

import npz_examples
import numpy as np
import pytest

from sft_jax.data.arrays import from_arrays
from sft_jax.data.card import Card
from sft_jax.data.dataset import Dataset, DatasetInfo, Standardisation
from sft_jax.data.records import RawData
from sft_jax.data.sets.npz_folder.files import read_npz_folder
from sft_jax.structs import ModalitySpec

VALUES = np.random.default_rng(0).normal(size=(8, 5, 2))
INDICES = np.arange(8) % 2
ONE_HOT = np.eye(2)[INDICES]


class Word(str, enum.Enum):  # noqa: UP042 (its str is that of an Enum)
    """Text that prints otherwise."""

    NO, YES = "no", "yes"


class Number(enum.IntEnum):
    """Integers with names of their own."""

    NO, YES = 0, 1


def _info(names, task="single_label", modality="x"):
    return DatasetInfo(
        modalities={modality: ModalitySpec(5, 2)},
        class_names=names,
        statistics={modality: Standardisation((0.0, 0.0), (1.0, 1.0))},
        num_examples={"train": 8},
        task=task,
    )


def _raw(names, task="single_label"):
    return RawData("small", (), {"x": (5, 2)}, names, task, {"train": 8}, lambda _: iter(()))


def _arrays(names, task="single_label", labels=INDICES):
    inputs, splits = {"x": VALUES}, ("train", "valid")
    return from_arrays(
        dict.fromkeys(splits, inputs), dict.fromkeys(splits, labels), names, task=task
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (np.unique(INDICES), ("0", "1")),
        (range(2), ("0", "1")),
        ([7, "many"], ("7", "many")),
        (np.array(["no", "yes"]), ("no", "yes")),
        (np.array(["no", 1], dtype=object), ("no", "1")),
        ((np.str_("no"), np.uint8(3)), ("no", "3")),
        (list(Word), ("no", "yes")),
        (list(Number), ("0", "1")),
        (["日本", "50 % $x_1$"], ("日本", "50 % $x_1$")),
    ],
    ids=str,
)
def test_names_become_text_where_that_is_unambiguous(names, expected):
    for named in (_info(names), _raw(names), _arrays(names).info):
        assert named.class_names == expected
        assert {type(name) for name in named.class_names} == {str}
    info = _arrays(names).info
    assert DatasetInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    json.dumps(_arrays(names).card.to_json())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b", "a"), "class_names hold 'a' more than once; expected names that all differ"),
        ((1, "1"), "class_names hold '1' more than once"),
        (("a", ""), r"class_names\[1\] is ''; expected a name that can be read"),
        ((" \t", "b"), r"class_names\[0\] is ' \\t'"),
        (("a", None), r"class_names\[1\] is None, of type NoneType; expected text, or an integer"),
        ((0.0, 1.0), r"class_names\[0\] is 0.0, of type float; expected"),
        (np.array([0.5, 1.5]), r"class_names\[0\] is np.float64\(0.5\), of type float64"),
        ((False, True), r"class_names\[0\] is False, of type bool"),
        (np.array([False, True]), r"class_names\[0\] is np.False_, of type bool"),
        ((b"a", b"b"), r"class_names\[0\] is b'a', of type bytes"),
        ((("a", "b"), ("c", "d")), r"class_names\[0\] is \('a', 'b'\), of type tuple"),
        (np.array([["a"], ["b"]]), r"class_names\[0\] is array\(\['a'\].*, of type ndarray"),
        (np.ma.array([1, 2], mask=[0, 1]), r"class_names\[1\] is masked, of type MaskedConstant"),
        ("ab", "class_names='ab' is a str; expected a list of names, in the order of the labels"),
        ({"a": 0, "b": 1}, "is a dict; expected a list"),
        ({"a"}, "is a set; expected a list"),
        (("only",), r"class_names are \['only'\]; the task single_label needs at least 2 classes"),
        ((), r"class_names are \[\]; the task single_label needs at least 2"),
    ],
    ids=str,
)
def test_other_names_are_refused_by_every_way_in(names, message):
    for make in (_info, _raw, _arrays):
        with pytest.raises(ValueError, match=message):
            make(names)


def test_how_many_names_a_task_needs():
    for task in ("multi_label", "regression"):
        for make in (_info, _raw):
            assert make(["only"], task).class_names == ("only",)
            with pytest.raises(ValueError, match=f"the task {task} needs at least 1 name"):
                make([], task)
    with pytest.raises(ValueError, match="the task ordinal needs at least 2 classes"):
        _info(["only"], "ordinal")
    assert _arrays(["only"], "regression", VALUES[:, 0, :1]).info.class_names == ("only",)


def test_names_of_modalities_are_text():
    for name in ("", " ", 1, None):
        with pytest.raises(ValueError, match=f"a modality has the name {name!r}; expected text"):
            _info(("a", "b"), modality=name)


CLASS_LABELS = [
    (np.array(["b", "a"] * 4), "label 'b' is not one of the 2 .* an integer from 0 to 1; of 'b' i"),
    (["b", "a"] * 4, "label 'b' is not one of the 2 classes: .*; of 'b' it is 1"),
    (np.array(["b", "a"] * 4, object), "label 'b' is not one of .*; of 'b' it is 1"),
    (["c", "a"] * 4, "label 'c' is not one of the 2 classes: expected the index of one, an int"),
    ([b"b", b"a"] * 4, "label b'b' is not one of the 2 classes: expected the index"),
    (ONE_HOT, r"label \[1.0, 0.0\] is not .*; of one-hot labels it is labels.argmax\(-1\)"),
    (ONE_HOT.astype(int), r"label \[1, 0\] is not one of .*; of one-hot labels it is labels.arg"),
    (INDICES[:, None], r"label \[0\] is not one of .*; labels are of shape \[n\], not \[n, 1\]"),
    (INDICES.astype(float), r"label 0.0 is not .*, not float64; labels.astype\(int\) gives it"),
    (INDICES.astype("f2"), "label 0.0 is not one of .*, not float16"),
    (INDICES.astype(bool), "label False is not one of .* an integer from 0 to 1, not bool"),
    (np.full(8, np.nan), "label nan is not one of the 2 classes: .*, not float64"),
    (
        INDICES - 1,
        "label -1 is not one of the 2 classes: expected the index of one, an integer fro",
    ),
    (INDICES + 1, "label 2 is not one of the 2 classes"),
    ([None] * 8, "label None is not one of the 2 classes: expected the index of one, an integer"),
    (INDICES.astype(complex), "label 0j is not one of the 2 classes"),
    (
        INDICES.astype("M8[D]"),
        ".* is not one of the 2 classes: expected the index of one, an integer",
    ),
]


@pytest.mark.parametrize(("labels", "message"), CLASS_LABELS, ids=str)
@pytest.mark.parametrize("task", ["single_label", "ordinal"])
def test_messages_say_which_label_of_a_class_is_wanted(task, labels, message):
    with pytest.raises(ValueError, match=r"example 'train/\d': " + message):
        _arrays(("a", "b"), task, labels)


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (
            "multi_label",
            [["b"]] * 8,
            r"\['b'\] is not an array of 2 numbers: 1 .*, so here \[0, 1\]",
        ),
        ("multi_label", [["b", "a"]] * 8, r"is not an array of 2 .*, so here \[1, 1\]"),
        ("multi_label", INDICES, "label 0 is not an array of 2 numbers: 1 for each of class_names"),
        ("multi_label", 0.5 * ONE_HOT, r"label \[0.5, 0.0\] is not made of 0 and 1"),
        ("multi_label", -ONE_HOT, r"label \[-1.0, -0.0\] is not made of 0 and 1"),
        ("multi_label", np.full((8, 2), np.nan), r"label \[nan, nan\] is not made of 0 and 1"),
        ("regression", np.ones(8), r"label 1.0 is not an array of 2 numbers, .* of shape \[n, 1\]"),
        ("regression", np.ones((8, 3)), r"\[1.0, 1.0, 1.0\] is not an array of 2 numbers, one for"),
        ("regression", [["a", "b"]] * 8, r"\['a', 'b'\] is not an array of 2 numbers, one for ea"),
        ("regression", np.full((8, 2), 1e39), "is not finite as float32"),
        ("regression", np.full((8, 2), np.inf), r"label \[inf, inf\] is not finite as float32"),
    ],
    ids=str,
)
def test_messages_say_which_numbers_are_wanted(task, labels, message):
    with pytest.raises(ValueError, match="example 'train/0': .*" + message):
        _arrays(("a", "b"), task, labels)


def test_integer_names_are_not_taken_for_indices():
    labels = np.array([3, 7] * 4)
    with pytest.raises(ValueError, match=r"label 3 is not one of the 2 .*; of '3' it is 0"):
        _arrays(np.unique(labels), labels=labels)


def test_labels_are_checked_by_every_way_in():
    records = [{"id": "no0", "inputs": {}, "label": "b"}]
    message = "example 'no0': label 'b' is not one of the 2 classes: .* integer .* of 'b' it is 1"
    raw = dataclasses.replace(_raw(("a", "b")), read=lambda _: iter(records))
    with pytest.raises(ValueError, match=message):
        Card.count("mine", raw, "error")
    with pytest.raises(ValueError, match=message):
        Dataset(_info(("a", "b")), lambda _: records).source("train")


def test_a_folder_needs_two_different_classes(tmp_path):
    one = {split: ["only"] for split in ("train", "valid", "test")}
    with pytest.raises(ValueError, match="single_label needs at least 2"):
        read_npz_folder(npz_examples.write_labels(tmp_path / "one", one))
    twice = npz_examples.write_labels(tmp_path / "twice", one, class_names=["only", "only"])
    with pytest.raises(ValueError, match="names must differ"):
        read_npz_folder(twice)
