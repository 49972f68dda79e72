import pickle
import re

import numpy as np
import pytest
import sentiment_pickles

from sft_jax.data.records import DataFileError
from sft_jax.data.sets.sentiment.files import KNOWN_RELEASES, read_sentiment, sentiment_class

_COUNTS = {"train": 9, "test": 3, "valid": 7}


@pytest.fixture
def read(tmp_path):
    """Pickles a value and reads the file."""

    def read(content):
        path = tmp_path / "file.pkl"
        path.write_bytes(pickle.dumps(content, 4))
        return read_sentiment(path, "mosi")

    return read


def _assert_same(actual, expected):
    assert actual["id"] == expected["id"]
    assert actual["label"].dtype == np.float32
    np.testing.assert_array_equal(actual["label"], expected["label"])
    assert list(actual["inputs"]) == list(expected["inputs"])
    for modality, values in expected["inputs"].items():
        assert actual["inputs"][modality].dtype == values.dtype
        np.testing.assert_array_equal(actual["inputs"][modality], values)


@pytest.mark.parametrize("dataset", sentiment_pickles.DATASETS)
@pytest.mark.parametrize("variant", sentiment_pickles.VARIANTS)
def test_examples_are_read_without_their_padding(tmp_path, dataset, variant):
    path = tmp_path / "any name.pkl"
    sentiment_pickles.write(path, dataset, variant, _COUNTS, seed=1)
    raw = read_sentiment(str(path), dataset)
    assert (raw.variant, raw.files, raw.num_examples) == (variant, (path,), _COUNTS)
    assert (raw.task, raw.class_names) == ("regression", ("sentiment",))
    assert raw.known_releases == KNOWN_RELEASES[dataset]
    assert set(raw.padding.values()) == {"left" if variant.startswith("mult") else "right"}
    longest = dict.fromkeys(raw.shapes, (0,))
    for split, count in _COUNTS.items():
        expected = list(sentiment_pickles.examples(dataset, variant, split, count, seed=1))
        for _ in range(2):  # It can be read again.
            for one, other in zip(raw.read(split), expected, strict=True):
                _assert_same(one, other)
        for example in expected:
            for modality, values in example["inputs"].items():
                longest[modality] = max(longest[modality], values.shape)
    assert raw.shapes == longest
    with pytest.raises(ValueError, match="no split 'dev': there are train, valid, test"):
        raw.read("dev")


@pytest.mark.parametrize("variant", sentiment_pickles.VARIANTS)
def test_the_written_files_are_ordinary_pickles(tmp_path, variant):
    path = tmp_path / "file.pkl"
    sentiment_pickles.write(path, "mosei", variant, {"valid": 2})
    with path.open("rb") as file:
        split = pickle.load(file)["valid"]
    shapes = {
        name: (2, steps, sentiment_pickles.features("mosei", variant)[name])
        for name, steps in sentiment_pickles.steps("mosei", variant).items()
    }
    assert {name: split[name].shape for name in shapes} == shapes
    assert (split["audio"] == -np.inf).any()


def _steps(*numbers):
    """Steps of two features, zero where the number is."""
    return np.array([[number, -number] for number in numbers], np.float32)


def _mult(vision, audio, text, **others):
    """All splits alike, with an example for each row."""
    count = len(text)
    split = {
        "vision": np.stack(vision),
        "audio": np.stack(audio),
        "text": np.stack(text),
        "labels": np.zeros((count, 1, 1)),
        "id": [f"clip{row}" for row in range(count)],
        **others,
    }
    return {name: dict(split) for name in ("train", "valid", "test")}


def _mmsa(vision, audio, text, mask, **others):
    mask = np.array(mask)
    content = _mult(
        vision,
        audio,
        text,
        text_bert=np.stack([mask, mask, mask * 0], axis=1),
        regression_labels=np.zeros(len(text)),
        **others,
    )
    for split in content.values():
        del split["labels"]
    return content


def _firsts(example):
    """The first feature of every step, by modality."""
    return {name: values[:, 0].tolist() for name, values in example["inputs"].items()}


def test_unaligned_modalities_lose_their_own_padding(read):
    raw = read(
        _mult(
            vision=[_steps(0, 0, 1, 2), _steps(0, 0, 0, 0), _steps(1, 2, 3, 4)],
            audio=[_steps(0, 1, 0), _steps(0, -np.inf, 2), _steps(0, np.nan, 1)],
            text=[_steps(0, 3), _steps(0, 4), _steps(5, 6)],
        )
    )
    assert raw.variant == "mult_noalign"
    first, second, third = raw.read("train")
    assert _firsts(first) == {"vision": [1, 2], "audio": [1, 0], "text": [3]}
    assert _firsts(second) == {"audio": [-np.inf, 2], "text": [4]}
    np.testing.assert_equal(
        _firsts(third), {"vision": [1, 2, 3, 4], "audio": [np.nan, 1], "text": [5, 6]}
    )
    assert raw.shapes == {"vision": (4, 2), "audio": (2, 2), "text": (2, 2)}


def test_aligned_modalities_stay_aligned(read):
    raw = read(
        _mult(
            vision=[_steps(0, 0, 0, 2, 0), _steps(0, 0, 0, 0, 0), _steps(0, 0, 0, 0, 0)],
            audio=[_steps(0, 0, 3, 0, 4), _steps(0, 0, 0, 0, 7), _steps(0, 0, 0, 0, 0)],
            text=[_steps(0, 1, 0, 0, 5), _steps(0, 0, 0, 6, 0), _steps(0, 0, 0, 0, 0)],
        )
    )
    assert raw.variant == "mult_aligned"
    first, second, third = raw.read("test")
    assert _firsts(first) == {"vision": [0, 0, 2, 0], "audio": [0, 3, 0, 4], "text": [1, 0, 0, 5]}
    assert _firsts(second) == {"audio": [0, 7], "text": [6, 0]}
    assert _firsts(third) == {}


def test_padding_on_the_other_side_is_found(read):
    raw = read(
        _mult(
            vision=[_steps(1, 0, 0, 0), _steps(0, 2, 0, 0), _steps(3, 4, 5, 6)],
            audio=[_steps(0, 1, 2), _steps(0, 0, 3), _steps(4, 5, 6)],
            text=[_steps(1, 2), _steps(3, 4), _steps(5, 6)],
        )
    )
    assert raw.padding == {"vision": "right", "audio": "left", "text": "none"}
    assert [_firsts(example)["vision"] for example in raw.read("valid")] == [
        [1],
        [0, 2],
        [3, 4, 5, 6],
    ]


def test_the_token_mask_counts_for_aligned_modalities(read):
    raw = read(
        _mmsa(
            vision=[_steps(0, 1, 0, 0, 0), _steps(0, 0, 0, 0, 0)],
            audio=[_steps(0, 2, 3, 0, 0), _steps(0, 4, 0, 0, 0)],
            text=[_steps(5, 6, 7, 8, 9), _steps(5, 6, 7, 8, 9)],
            mask=[[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]],
        )
    )
    assert (raw.variant, set(raw.padding.values())) == ("mmsa_aligned", {"right"})
    first, second = raw.read("train")
    assert _firsts(first) == {"vision": [0, 1, 0, 0], "audio": [0, 2, 3, 0], "text": [5, 6, 7, 8]}
    assert _firsts(second) == {"audio": [0, 4, 0], "text": [5, 6, 7]}


def test_lengths_count_unless_they_end_at_a_zero_step(read):
    raw = read(
        _mmsa(
            vision=[_steps(1, 0, 2, 0), _steps(0, 3, 0, 0), _steps(0, 0, 0, 0), _steps(1, 2, 3, 4)],
            audio=[_steps(1, 2, 0), _steps(1, 0, 0), _steps(1, 2, 3), _steps(1, 9, 9)],
            text=[_steps(1, 1)] * 4,
            mask=[[1, 0], [1, 1], [0, 0], [1, 0]],
            vision_lengths=[1, 1, 1, 4],
            audio_lengths=np.array([3, 1, 2, 1]),
        )
    )
    assert raw.variant == "mmsa_unaligned"
    examples = [_firsts(example) for example in raw.read("train")]
    assert [steps.get("vision") for steps in examples] == [[1, 0, 2], [0, 3], None, [1, 2, 3, 4]]
    assert [steps.get("audio") for steps in examples] == [[1, 2, 0], [1], [1, 2], [1]]
    assert [steps.get("text") for steps in examples] == [[1], [1, 1], None, [1]]


def test_lengths_of_left_padding_count_from_the_end(read):
    raw = read(
        _mmsa(
            vision=[_steps(0, 0, 1, 2), _steps(0, 3, 0, 4)],
            audio=[_steps(0, 0, 1), _steps(2, 3, 4)],
            text=[_steps(1, 1)] * 2,
            mask=[[1, 0], [1, 1]],
            vision_lengths=[1, 3],  # The first as MMSA's script has it.
            audio_lengths=[2, 3],
        )
    )
    assert raw.padding == {"vision": "left", "audio": "left", "text": "right"}
    examples = [_firsts(example) for example in raw.read("train")]
    assert [steps["vision"] for steps in examples] == [[1, 2], [3, 0, 4]]
    assert [steps["audio"] for steps in examples] == [[0, 1], [2, 3, 4]]


_STEPS = [_steps(0, 1), _steps(2, 3), _steps(4, 5)]


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (
            np.array([["a", "1", "2"], ["b", "1", "2"], ["a", "3", "4"]]),
            ["a_1_2", "b_1_2", "a_3_4"],
        ),
        (np.array([[b"a\xc3\xa9"], [b"\xff"], [b"c"]]), ["aé", "\\xff", "c"]),
        (np.array(["a", "b", "a"], object), ["a#0", "b", "a#2"]),
        (["a#1", "a", "a"], ["a#1#0", "a#1", "a#2"]),
        ([("v", 1, 2.5), ["w", b"x"], np.array([["y"]])], ["v_1_2.5", "w_x", "y"]),
        (np.array([7, 8, 7]), ["7#0", "8", "7#2"]),
    ],
)
def test_ids_of_any_form_become_readable_and_unique(read, ids, names):
    raw = read(_mult(_STEPS, _STEPS, _STEPS, id=ids))
    assert [example["id"] for example in raw.read("train")] == names


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 1)])
def test_labels_are_read_as_they_are(read, shape):
    labels = np.array([-3, 0.1, 8 / 3])
    for form in (labels.reshape(shape), labels.astype(np.float32).reshape(shape)):
        examples = [
            example["label"] for example in read(_mult(*[_STEPS] * 3, labels=form)).read("test")
        ]
        np.testing.assert_array_equal(examples, labels.astype(np.float32)[:, None])


def test_values_are_views_of_the_file(tmp_path):
    path = tmp_path / "file.pkl"
    sentiment_pickles.write(path, "mosei", "mult_noalign", {"train": 8, "valid": 1, "test": 1})
    example = next(iter(read_sentiment(path, "mosei").read("train")))
    for values in example["inputs"].values():
        assert not values.flags.owndata
        assert not values.flags.writeable


def _problems(read, content):
    with pytest.raises(DataFileError) as error:
        read(content)
    first, *problems = str(error.value).split("\n- ")
    assert first.endswith("file.pkl is not a file of MulT's or MMSA's form:")
    return problems


def test_all_problems_of_a_file_are_named_at_once(read):
    content = _mult(_STEPS, _STEPS, _STEPS)
    content["train"]["audio"] = np.zeros((3, 2))
    content["train"]["labels"] = np.array([0, np.nan, 3.5])
    content["valid"]["text"] = np.zeros((2, 2, 2))
    del content["valid"]["id"]
    content["test"]["vision"] = [1, 2, 3]
    content["test"]["audio"] = np.zeros((3, 2, 7), np.float32)
    content["test"]["labels"] = np.array(["a", "b", "c"])
    assert _problems(read, content) == [
        "valid: no key 'id': there are vision, audio, text, labels",
        "train/audio: float64 of shape (3, 2), expected an array of numbers of shape (examples,"
        " steps, features), at least one of each",
        "train/labels: example 1 has label nan, expected a number from -3 to 3",
        "train/labels: example 2 has label 3.5, expected a number from -3 to 3",
        "valid: the keys differ in the number of examples: vision 3, audio 3, text 2, labels 3",
        "test/vision: a list, expected an array of numbers of shape (examples, steps, features),"
        " at least one of each",
        "test/labels: <U1 of shape (3,), expected a number for each example",
        "audio: the splits differ in the number of features: {'valid': 2, 'test': 7}",
    ]


def test_problems_with_lengths_and_masks_are_named(read):
    content = _mmsa(
        [_steps(1, 2, 3)] * 2,
        [_steps(1, 2)] * 2,
        [_steps(1, 2)] * 2,
        mask=[[1, 0], [1, 1]],
        vision_lengths=[1, 4],
        audio_lengths=[0.5, 1],
    )
    content["valid"]["text_bert"] = np.zeros((2, 2))
    content["test"]["text_bert"] = np.full((2, 3, 2), 2)
    content["test"]["audio_lengths"] = None
    del content["test"]["vision_lengths"]
    problems = _problems(read, content)
    assert [problem for problem in problems if not problem.startswith("train")] == [
        "test: no key 'vision_lengths': there are vision, audio, text, id, text_bert,"
        " regression_labels, audio_lengths",
        "valid/text_bert: float64 of shape (2, 2), expected numbers of shape (2, 3, 2): tokens,"
        " mask, segments",
        "valid/vision_lengths: example 1 has length 4, expected a whole number from 0 to 3",
        "valid/audio_lengths: example 0 has length 0.5, expected a whole number from 0 to 2",
        "test: the keys differ in the number of examples: vision 2, audio 2, text 2,"
        " regression_labels 2, id 2, text_bert 2, audio_lengths None",
        "test/text_bert: the mask of example 0 is not made of 0 and 1",
        "test/audio_lengths: a NoneType, expected a number for each example",
    ]


def test_steps_that_agree_in_some_splits_only_are_a_problem(read):
    content = _mult(_STEPS, _STEPS, _STEPS)
    content["test"]["vision"] = np.ones((3, 9, 2))
    (problem,) = _problems(read, content)
    assert problem.startswith("aligned in some splits and not in others")


def test_empty_splits_and_modalities_are_problems(read):
    content = _mult(_STEPS, _STEPS, _STEPS)
    content["valid"] = {key: value[:0] for key, value in content["valid"].items()}
    problems = _problems(read, content)
    assert problems[0].startswith("valid/vision: float32 of shape (0, 2, 2), expected")
    zeros = [np.zeros((4, 2))] * 3
    assert _problems(read, _mult(zeros, _STEPS, _STEPS)) == [
        "vision: nothing but zeros in all examples"
    ]


def test_files_of_another_form_are_refused(read):
    with pytest.raises(DataFileError, match="holds a list, expected a dict of the splits train"):
        read([1, 2])
    content = _mult(_STEPS, _STEPS, _STEPS)
    content["dev"] = content.pop("valid")
    content["test"] = 3
    assert _problems(read, content) == [
        "no split 'valid': there are train, test, dev",
        "test: a int, expected a dict",
    ]
    missing = _problems(read, {split: {} for split in ("train", "valid", "test")})
    assert missing[0] == "train: no key 'vision': there are none"


def test_an_unknown_dataset_is_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape("dataset='iemocap' is not one of mosei, mosi")):
        read_sentiment(tmp_path / "nowhere.pkl", "iemocap")


def test_sentiment_classes_round_half_to_even():
    values = {-3: 0, -2.5: 1, -1.5: 1, -0.5: 3, 0.0: 3, 0.5: 3, 1.5: 5, 2.5: 5, 2.6: 6, 3: 6}
    assert {value: sentiment_class(value) for value in values} == values
    assert type(sentiment_class(np.float32(1.0))) is int
    for value in (-3.1, 3.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="is not a number from -3 to 3"):
            sentiment_class(value)
