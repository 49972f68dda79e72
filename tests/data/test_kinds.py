"""Kinds of inputs: stated and guessed, both ways in, and the same again in prediction."""

import dataclasses
import json
import logging
import re

import jax.numpy as jnp
import npz_examples
import numpy as np
import pytest

from sft_jax import ModalitySpec, SparseFusionTransformer
from sft_jax.data.arrays import from_arrays
from sft_jax.data.card import Card
from sft_jax.data.dataset import DatasetInfo
from sft_jax.data.sets.npz_folder.files import read_npz_folder
from sft_jax.export.program import by_type, standardisation
from sft_jax.inference.explain import explain
from sft_jax.inference.inputs import InputReader, Inputs, split_examples

RNG = np.random.default_rng(0)
N = 12
COLUMNS = RNG.normal(size=(N, 6)) * [15, 20, 0.3, 0.1, 80, 1] + [60, 80, 1, 7.4, 250, 5]
GREY = RNG.integers(0, 256, (N, 9, 8), np.uint8)
FIRST = RNG.integers(0, 256, (N, 3, 9, 8), np.uint8)
CLIP = RNG.normal(size=(N, 5))
WORDS = RNG.integers(0, 50, (N, 7))
WORDS[0, 0] = 49
TEXTS = np.array(["A good film!", "a BAD film."] * (N // 2))
GIVEN = {
    "series": (CLIP, (5, 1)),
    "image": (GREY, (9, 8, 1)),
    "channels_first": (FIRST, (9, 8, 3)),
    "vector": (COLUMNS, (1, 6)),
    "embedding": (CLIP, (1, 5)),
    "tokens": (WORDS, (7, 1)),
    "text": (TEXTS, (4, 1)),
}
"""Values of each kind that has another form than `[length, ..., features]`, and the kept shape."""


def _dataset(values, **options):
    inputs = {split: {"x": values} for split in ("train", "valid")}
    labels = dict.fromkeys(inputs, np.arange(len(values)) % 2)
    return from_arrays(inputs, labels, ("no", "yes"), **options)


def _kind(kind, **options):
    return _dataset(GIVEN[kind][0], kinds={"x": kind}, **options)


@pytest.mark.parametrize("kind", [*GIVEN])
def test_each_kind_is_kept_and_predicted_in_one_form(kind):
    values, shape = GIVEN[kind]
    info = _kind(kind).info
    size = 50 if kind == "tokens" else len(info.vocabularies.get("x", ""))
    assert info.modalities["x"] == ModalitySpec.from_shape(shape, kind=kind, vocabulary=size)
    assert DatasetInfo.from_json(info.to_json()) == info
    reader = InputReader(info, ("x",))
    expected = _kind(kind).source("train")
    one, many = split_examples({"x": values[0]}, info.modalities)
    assert not many
    np.testing.assert_array_equal(one[0]["x"], values[0])
    if kind == "series":  # Many of one feature have the form of one of many.
        return
    for given in (values, list(values)):
        examples, many = split_examples({"x": given}, info.modalities)
        assert many
        for own, example in zip(examples, expected, strict=True):
            read = reader.read(0, own, as_given=True)
            np.testing.assert_array_equal(read.values["x"], example["inputs"]["x"])


def test_channels_first_are_transposed():
    np.testing.assert_array_equal(
        _kind("channels_first").records("train")[2]["inputs"]["x"], FIRST[2].transpose(1, 2, 0)
    )


def test_a_vector_is_standardised_by_column():
    values = np.stack([row["inputs"]["x"][0] for row in _kind("vector").source("train")])
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(0), 1, atol=1e-5)
    assert _kind("vector").info.modalities["x"].num_tokens == 6
    grouped = _kind("vector", patch_size={"x": 4}).info.modalities["x"]
    assert grouped.num_tokens == 2


@pytest.mark.parametrize(("asked", "mean"), [({}, 0), ({"x": True}, CLIP.mean(0))])
def test_embeddings_are_standardised_if_asked(asked, mean):
    statistics = _kind("embedding", standardise=asked).info.statistics["x"]
    np.testing.assert_allclose(statistics.mean, np.broadcast_to(mean, 5))
    series = _kind("series", standardise={"x": False}).source("train")[1]
    np.testing.assert_array_equal(series["inputs"]["x"][:, 0], CLIP[1].astype(np.float32))


@pytest.mark.parametrize(
    ("values", "kind", "doubt"),
    [
        (GREY, "series", r"\[9, 8\] may be a grey image, of kind image; it is read as 9 steps"),
        (FIRST, "image", "an image of 3 channels, of kind channels_first; it is read as 3 rows"),
        (WORDS[..., None], "series", "whole numbers without order may be ids, of kind tokens"),
        (COLUMNS[..., None], "series", "6 steps may be unlike columns, of kind vector"),
    ],
)
def test_arrays_that_may_be_of_another_kind_are_doubted(values, kind, doubt, caplog):
    card = _dataset(values).card
    assert card.kinds == {"x": kind}
    (text,) = caplog.messages
    assert text in card.warnings()
    assert text in Card.from_json(card.to_json()).warnings()
    assert re.search(doubt, text)
    caplog.clear()
    assert not _dataset(values, kinds={"x": kind}).card.doubts
    assert not caplog.messages


def test_ordinary_series_and_images_raise_no_doubt(caplog):
    caplog.set_level(logging.WARNING)
    wave = 5 * np.sin(np.arange(40) / 4 + RNG.normal(size=(N, 1)))
    for values in (
        wave[..., None],
        (100 * np.abs(wave[..., None])).astype(int),
        RNG.normal(size=(N, 30, 9)),
        RNG.integers(0, 256, (N, 9, 8, 3), np.uint8),
    ):
        assert not _dataset(values).card.doubts
    assert not caplog.messages


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (CLIP, {}, r"train/0: x is of shape \[5\].*: series .*vector \(\[columns\]\); embedding"),
        (CLIP, {"kinds": {"x": "vectors"}}, "kinds: x of kind 'vectors'; did you mean 'vector'"),
        (CLIP, {"kinds": {"y": "vector"}}, r"kinds: unknown modality \['y'\], known: \['x'\]"),
        (GREY, {"kinds": {"x": "vector"}}, r"x is of shape \[9, 8\]; the kind vector is \[col"),
        (CLIP, {"kinds": {"x": "image"}}, r"the kind image is \[height, width, channels\]"),
        (
            CLIP,
            {"kinds": {"x": "embedding"}, "not_finite": "mean"},
            "not_finite='mean' .* x, of kind embedding, is not standardised by feature",
        ),
        (COLUMNS, {"kinds": {"x": "vector"}, "patch_size": {"x": 7}}, "=7 exceeds features=6"),
        (CLIP, {"kinds": {"x": "tokens"}}, r"x is float64; the kind tokens is \[length\] of int"),
        (WORDS, {"kinds": {"x": "text"}}, r"x is of shape \[7\]; the kind text is a string"),
        (TEXTS, {"kinds": {"x": "tokens"}}, "x is a string; .* state the kind text"),
        (WORDS, {"kinds": {"x": "tokens"}, "standardise": {"x": True}}, "which has no mean"),
        (WORDS, {"kinds": {"x": "tokens"}, "vocabulary": {"x": "bytes"}}, "expected a whole num"),
        (TEXTS, {"vocabulary": {"x": "letters"}}, "is 'letters'; .*; or 'bytes', or a Vocabulary"),
        (GREY, {"vocabulary": {"x": 9}}, "vocabulary: x is not of kind tokens, text, events"),
        (
            WORDS,
            {"kinds": {"x": "tokens"}, "patch_size": {"x": 2}},
            "kind='tokens' needs a vocabulary .* patch_size=1; got 50, 1 and 2",
        ),
    ],
)
def test_a_wrong_kind_is_named(values, options, message):
    with pytest.raises(ValueError, match=message):
        _dataset(values, **options)


def test_prediction_names_the_form_of_the_kind():
    with pytest.raises(ValueError, match=r"one example \[columns\], or many"):
        split_examples({"x": COLUMNS[0, 0]}, _kind("vector").info.modalities)
    with pytest.raises(ValueError, match=r"example 'a': x is of shape \[2, 6\]; the kind vector"):
        InputReader(_kind("vector").info, ("x",)).read("a", {"x": COLUMNS[:2]}, as_given=True)


def test_specs_without_kinds_are_those_of_earlier_versions():
    old = {"length": 9, "features": 2, "patch_size": 1}
    assert ModalitySpec(**old).to_json() == old
    assert ModalitySpec((4, 4), 1).kind == "image"
    assert ModalitySpec((4, 4, 4), 1).kind == "video"
    with pytest.raises(ValueError, match="kind='image' has 2 axes of positions, but length=9"):
        ModalitySpec(9, 2, kind="image")
    with pytest.raises(ValueError, match="kind='texts' is not one of series"):
        ModalitySpec(9, 1, kind="texts")
    with pytest.raises(ValueError, match="vocabulary=5 must be 0 for kind='series'"):
        ModalitySpec(9, 1, vocabulary=5)


def test_ids_outside_the_table_are_refused():
    with pytest.raises(ValueError, match=r"'train/0': x holds the id 49; expected 0 to 48"):
        _kind("tokens", vocabulary={"x": 49})
    inputs = {"train": {"x": WORDS % 9}, "valid": {"x": WORDS}}
    labels = {split: np.arange(N) % 2 for split in inputs}
    dataset = from_arrays(inputs, labels, ("no", "yes"), kinds={"x": "tokens"})
    with pytest.raises(ValueError, match=r"'valid/0': x holds the id 49; expected 0 to 8"):
        dataset.source("valid")
    reader = InputReader(_kind("tokens").info, ("x",))
    assert reader.read(0, {"x": [49, 0]}, as_given=True).masks["x"].sum() == 2
    for wrong in (50, -1):
        with pytest.raises(ValueError, match=f"holds the id {wrong}; expected 0 to 49"):
            reader.read(0, {"x": [wrong]}, as_given=True)


def test_words_of_the_training_split_alone_have_ids():
    inputs = {"train": {"x": ["a b a", "b a"]}, "valid": {"x": ["a c", "C b"]}}
    labels = {"train": [0, 1], "valid": [0, 1]}
    dataset = from_arrays(inputs, labels, ("no", "yes"))
    assert dataset.card.kinds == {"x": "text"}
    assert dataset.info.vocabularies["x"].entries == ("a", "b")
    ids = [record["inputs"]["x"][:, 0].tolist() for record in dataset.records("valid")]
    assert ids == [[1, 0], [0, 2]]
    short = from_arrays(inputs, labels, ("no", "yes"), vocabulary={"x": 1})
    assert short.info.vocabularies["x"].entries == ("a",)
    assert short.info.modalities["x"].vocabulary == 2
    with pytest.raises(ValueError, match="its words are not those of the run; pass the run's"):
        short.like(dataset.info)


def test_texts_need_their_vocabulary():
    info = _kind("text").info
    with pytest.raises(ValueError, match=r"texts need vocabularies of sizes {'x': 7}, got {}"):
        dataclasses.replace(info, vocabularies={})
    with pytest.raises(ValueError, match=r"x is a string; the kind series .*; state the kind text"):
        InputReader(_kind("series").info, ("x",)).read(0, {"x": "a"}, as_given=True)
    again = _kind("text", vocabulary={"x": info.vocabularies["x"]})
    assert again.like(info).info.vocabularies == info.vocabularies


@pytest.fixture(scope="module")
def events():
    """Two types of far apart values; the third type is in no training example."""
    types = RNG.integers(0, 2, (N, 5))
    values = RNG.normal(size=(N, 5)) * np.array([1, 100])[types] + np.array([7, 5000])[types]
    return np.stack([np.cumsum(RNG.uniform(0, 9, (N, 5)), axis=1), types, values], axis=-1)


def test_values_of_events_are_standardised_by_type(events):
    dataset = _dataset(events, kinds={"x": "events"}, vocabulary={"x": 3})
    assert dataset.info.modalities["x"] == ModalitySpec(5, 3, 1, "events", 3)
    assert DatasetInfo.from_json(dataset.info.to_json()) == dataset.info
    examples = dataset.source("train")
    rows = np.concatenate([example["inputs"]["x"] for example in examples])
    np.testing.assert_array_equal(rows[:, 1], events[..., 1].reshape(-1))
    for number in (0, 1):
        own = rows[rows[:, 1] == number, 2]
        np.testing.assert_allclose([own.mean(), own.std()], [0, 1], atol=1e-4)
    np.testing.assert_allclose([rows[:, 0].mean(), rows[:, 0].std()], [0, 1], atol=1e-4)
    assert (dataset.info.statistics["x"].mean[3], dataset.info.statistics["x"].std[3]) == (0, 1)
    reader = InputReader(dataset.info, ("x",))
    read = reader.read(0, {"x": events[1]}, as_given=True)
    np.testing.assert_array_equal(read.values["x"], examples[1]["inputs"]["x"])
    high, low, std = standardisation(dataset.info, "x")
    exported = by_type(jnp.asarray(events[1], jnp.float32), high, low, std)
    np.testing.assert_allclose(exported, read.values["x"], atol=1e-3)


def test_wrong_events_are_named(events):
    for values, options, message in (
        (events[..., :2], {}, r"x is of shape \[5, 2\]; the kind events is \[events, 3\]"),
        (np.add(events, [0, 0.5, 0]), {}, "holds the id [01].5; expected 0 to"),
        (events, {"vocabulary": {"x": 1}}, "holds the id 1; expected 0 to 0"),
        (events, {"standardise": {"x": False}}, "x is of kind events, which always is"),
        (events, {"not_finite": "mean"}, "x, of kind events, is not standardised by feature"),
    ):
        with pytest.raises(ValueError, match=message):
            _dataset(values, kinds={"x": "events"}, **options)


def test_kept_tokens_of_a_vector_are_explained_as_columns():
    spec = ModalitySpec(1, 5, 2, "vector")
    model = SparseFusionTransformer(2, {"x": spec}, k=1)
    example = Inputs(0, {"x": CLIP[:1]}, {"x": np.ones(1, bool)}, {"x": (1,)})
    outputs = {"x": np.ones((1, 3))}, {"x": np.array([[2]])}, {"x": np.ones((1, 1), bool)}
    (own,) = explain(model, [example], outputs)
    assert own["x"].kept == ((slice(4, 5),),)
    assert own["x"].saliency.shape == (3,)


def test_a_folder_takes_kinds(tmp_path):
    splits = ("train", "valid", "test")
    for i, split in enumerate(splits):
        npz_examples.write_example(
            tmp_path,
            f"{split}.npz",
            grey=GREY[i],
            first=FIRST[i],
            row=COLUMNS[i],
            clip=CLIP[i],
            ids=WORDS[i],
            film=TEXTS[i],
        )
    npz_examples.write_manifest(tmp_path, [(f"{split}.npz", split, "1.5") for split in splits])
    (tmp_path / "dataset.json").write_text('{"task": "regression"}')
    kinds = {"grey": "image", "first": "channels_first", "row": "vector", "clip": "embedding"}
    kinds |= {"ids": "tokens", "film": "text"}
    raw = read_npz_folder(tmp_path, kinds, {"film": "bytes"})
    assert raw.shapes == {
        "clip": (1, 5), "first": (9, 8, 3), "grey": (9, 8, 1), "row": (1, 6),
        "film": (12, 1), "ids": (7, 1),
    }  # fmt: skip
    (record,) = raw.read("valid")
    np.testing.assert_array_equal(record["inputs"]["first"], FIRST[1].transpose(1, 2, 0))
    card = Card.count("mine", raw, "error")
    assert card.kinds == kinds
    assert not card.doubts
    assert card.sizes == {"film": len(set(TEXTS[0])) + 1, "ids": WORDS[0].max() + 1}
    again = Card.from_json(json.loads(json.dumps(card.to_json())))
    assert (again.to_json(), again.vocabularies) == (card.to_json(), card.vocabularies)
    with pytest.raises(ValueError, match=r"data\.kinds: unknown modality"):
        read_npz_folder(tmp_path, {"film": "text", "gray": "image"})
    with pytest.raises(ValueError, match=r"film holds <U12, .* data\.kinds={'film': 'text'}"):
        read_npz_folder(tmp_path)
    with pytest.raises(ValueError, match=r"train.npz: grey is of shape \[9, 8\]; the kind vector"):
        read_npz_folder(tmp_path, {"film": "text", "grey": "vector"})
