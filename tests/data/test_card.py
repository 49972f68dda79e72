import hashlib
import io
import json

import numpy as np
import pytest
from rich.console import Console

from sft_jax.data.card import Card, clean_records
from sft_jax.data.card_report import print_card, print_summary
from sft_jax.data.records import RawData

SPLITS = {
    "train": [
        {"id": "a", "inputs": {"x": np.ones((3, 2)), "y": np.ones((2, 1))}, "label": 0},
        {"id": "b", "inputs": {"x": np.full((1, 2), np.nan)}, "label": 2},
    ],
    "valid": [{"id": "c", "inputs": {"x": np.zeros((2, 2)), "y": np.ones((2, 1))}, "label": 0}],
}


def _raw(splits=SPLITS, task="single_label", files=(), **changes):
    return RawData(
        **{
            "variant": "small",
            "files": files,
            "shapes": {"x": (4, 2), "y": (2, 1)},
            "class_names": ("low", "middle", "high"),
            "task": task,
            "num_examples": {split: len(examples) for split, examples in splits.items()},
            "read": lambda split: iter(splits[split]),
            **changes,
        }
    )


def test_a_card_counts_what_is_there(tmp_path):
    file = tmp_path / "data.bin"
    file.write_bytes(b"some bytes")
    card = Card.count("mine", _raw(files=(file,)), "zero")
    train, valid = card.splits["train"], card.splits["valid"]
    assert (train.n_examples, valid.n_examples) == (2, 1)
    assert (train.labels, valid.labels) == ({"low": 1, "high": 1}, {"low": 1})
    assert train.lengths == {"x": {3: 1, 1: 1}, "y": {2: 1, 0: 1}}
    assert train.not_finite == {"x": {"nan": 2}, "y": {}}
    assert train.moments["x"].count == 4
    np.testing.assert_allclose(train.moments["x"].mean, [0.75, 0.75])
    digest = hashlib.sha256(b"some bytes").hexdigest()
    assert card.files == [{"name": "data.bin", "bytes": 10, "sha256": digest}]
    assert card.warnings() == [
        "train: no example of middle",
        "train: 1 example without y",
        "train: x holds 2 nan; policy: zero",
        "valid: no example of middle, high",
    ]


def test_counts_are_compared_with_known_releases():
    known = {"first": {"train": 2, "valid": 1}}
    assert not any(
        "known" in w for w in Card.count("m", _raw(known_releases=known), "zero").warnings()
    )
    known = {"second": {"train": 2, "valid": 7}}
    (warning,) = (
        w for w in Card.count("m", _raw(known_releases=known), "zero").warnings() if "known" in w
    )
    assert "{'train': 2, 'valid': 1}, is that of no known release (second: " in warning


def test_cards_survive_json_exactly():
    card = Card.count("mine", _raw(padding={"x": "left"}), "zero")
    text = json.dumps(card.to_json())
    assert Card.from_json(json.loads(text)).to_json() == card.to_json()


def test_splits_add_up():
    both = Card.count("mine", _raw(), "zero").split(["train", "valid"])
    assert both.n_examples == 3
    assert both.labels == {"low": 2, "high": 1}
    assert both.lengths == {"x": {3: 1, 1: 1, 2: 1}, "y": {2: 2, 0: 1}}
    assert both.moments["x"].count == 6
    np.testing.assert_allclose(both.moments["x"].mean, [0.5, 0.5])


@pytest.mark.parametrize(
    ("task", "labels", "expected"),
    [
        ("multi_label", ([1, 0, 1], [1, 0, 0]), {"low": 2, "middle": 0, "high": 1}),
        (
            "regression",
            ([1.5, 0.0, -1.0], [-2.0, 0.0, 3.0]),
            {"low": [-2.0, 1.5], "middle": [0.0, 0.0], "high": [-1.0, 3.0]},
        ),
    ],
)
def test_labels_of_other_tasks(task, labels, expected):
    examples = [
        {"id": str(i), "inputs": {}, "label": np.array(label)} for i, label in enumerate(labels)
    ]
    card = Card.count("mine", _raw({"train": examples}, task=task), "error")
    assert card.splits["train"].labels == expected
    if task == "regression":
        assert card.splits["train"].rounded["low"] == {2: 1, -2: 1}
        assert Card.from_json(json.loads(json.dumps(card.to_json()))).to_json() == card.to_json()


def test_records_are_cleaned_on_the_way():
    card = Card.begin("mine", _raw(), "mean")
    first, second = clean_records(_raw(), card, "train")
    assert first["inputs"]["x"].dtype == np.float32
    np.testing.assert_array_equal(second["inputs"]["x"], [[1, 1]])
    (first, second) = clean_records(_raw(), Card.begin("mine", _raw(), "drop"), "train")
    assert "x" not in second["inputs"]  # None of its steps is left.


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"id": "a"}, "split 'train': two examples have the id 'a'"),
        ({"label": 3}, "example 'b': label 3 is not one of the 3 classes"),
        ({"inputs": {"z": np.ones((1, 1))}}, "example 'b': unknown modality 'z'"),
        ({"inputs": {"x": np.ones((5, 2))}}, r"example 'b': x is of shape \[5, 2\], expected \[up"),
        ({"inputs": {"x": np.ones((2, 2, 2))}}, r"example 'b': x is of shape \[2, 2, 2\]"),
        ({"inputs": {"x": np.array([["a", "b"]])}}, "example 'b': x is <U1, expected numbers"),
        ({"inputs": {"x": np.full((1, 2), np.inf)}}, "example 'b': x holds 2 inf; .* not_finite"),
    ],
)
def test_faults_of_an_example_are_named(example, message):
    good = SPLITS["train"][0]
    bad = {"id": "b", "inputs": {}, "label": 0} | example
    with pytest.raises(ValueError, match=message):
        Card.count("mine", _raw({"train": [good, bad]}), "error")


def test_an_empty_split_is_named():
    with pytest.raises(ValueError, match="split 'valid' has no examples"):
        Card.count("mine", _raw({"train": SPLITS["train"], "valid": []}), "zero")


def test_a_card_is_printed_whole(tmp_path):
    file = tmp_path / "data.bin"
    file.write_bytes(b"some bytes")
    out = Console(file=io.StringIO(), width=200)
    print_card(out, Card.count("mine", _raw(files=(file,)), "zero"))
    text = out.file.getvalue()
    for part in ("mine, small: single_label", "middle", "4 x 2", "2 nan", "data.bin", "warning: "):
        assert part in text


def test_many_splits_and_classes_are_abridged():
    names = tuple(f"class [{i}]" for i in range(100))
    splits = {f"part {i}": [] for i in range(6)}
    for i in range(100):
        for j in range(i + 1):
            example = {"id": f"{i}, {j}", "inputs": {"x": np.ones((1, 2))}, "label": i}
            splits[f"part {i % 6}"].append(example)
    out = Console(file=io.StringIO(), width=80)
    print_card(out, Card.count("mine", _raw(splits, class_names=names), "error"))
    text = out.file.getvalue()
    assert "5,050 examples in 6 splits" in text
    first, last = text.index("class [99]  "), text.index("class [0]  ")
    assert text.index("class [90]  ") < text.index("(80 more)") < text.index("class [9]  ")
    assert first < text.index("class [90]") < last
    assert "class [50] " not in text[:last]


def test_a_summary_is_a_few_lines():
    out = Console(file=io.StringIO(), width=80)
    print_summary(out, Card.count("mine", _raw(), "zero"), "run/data_card.json")
    assert out.file.getvalue().splitlines() == [
        "data: mine, small: 2 train, 1 valid examples, 4 warnings",
        "warning: train: no example of middle",
        "warning: train: 1 example without y",
        "warning: train: x holds 2 nan; policy: zero",
        "all of them: python -m sft_jax.data inspect run/data_card.json",
    ]
