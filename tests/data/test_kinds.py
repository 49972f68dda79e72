"""Kinds of inputs: stated and guessed, both ways in, and the same again in prediction."""

import logging
import re

import npz_examples
import numpy as np
import pytest

from sft_jax import ModalitySpec, SparseFusionTransformer
from sft_jax.data.arrays import from_arrays
from sft_jax.data.card import Card
from sft_jax.data.dataset import DatasetInfo
from sft_jax.data.sets.npz_folder.files import read_npz_folder
from sft_jax.inference.explain import explain
from sft_jax.inference.inputs import InputReader, Inputs, split_examples

RNG = np.random.default_rng(0)
N = 12
COLUMNS = RNG.normal(size=(N, 6)) * [15, 20, 0.3, 0.1, 80, 1] + [60, 80, 1, 7.4, 250, 5]
GREY = RNG.integers(0, 256, (N, 9, 8), np.uint8)
FIRST = RNG.integers(0, 256, (N, 3, 9, 8), np.uint8)
CLIP = RNG.normal(size=(N, 5))
GIVEN = {
    "series": (CLIP, (5, 1)),
    "image": (GREY, (9, 8, 1)),
    "channels_first": (FIRST, (9, 8, 3)),
    "vector": (COLUMNS, (1, 6)),
    "embedding": (CLIP, (1, 5)),
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
    assert info.modalities["x"] == ModalitySpec.from_shape(shape, kind=kind)
    assert DatasetInfo.from_json(info.to_json()) == info
    reader = InputReader(info, ("x",))
    expected = _kind(kind).source("train")
    for given in (values, list(values)):
        examples, many = split_examples({"x": given}, info.modalities) if kind != "series" else (
            [{"x": row} for row in values], True
        )  # fmt: skip
        assert many
        for own, example in zip(examples, expected, strict=True):
            read = reader.read(0, own, as_given=True)
            np.testing.assert_array_equal(read.values["x"], example["inputs"]["x"])
    if kind != "series":
        one, many = split_examples({"x": values[0]}, info.modalities)
        assert not many
        np.testing.assert_array_equal(one[0]["x"], values[0])


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
            "not_finite='mean' .* x is not standardised",
        ),
        (COLUMNS, {"kinds": {"x": "vector"}, "patch_size": {"x": 7}}, "=7 exceeds features=6"),
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
    with pytest.raises(ValueError, match="kind='text' is not one of series"):
        ModalitySpec(9, 2, kind="text")


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
            tmp_path, f"{split}.npz", grey=GREY[i], first=FIRST[i], row=COLUMNS[i], clip=CLIP[i]
        )
    npz_examples.write_manifest(tmp_path, [(f"{split}.npz", split, "1.5") for split in splits])
    (tmp_path / "dataset.json").write_text('{"task": "regression"}')
    kinds = {"grey": "image", "first": "channels_first", "row": "vector", "clip": "embedding"}
    raw = read_npz_folder(tmp_path, kinds)
    assert raw.shapes == {
        "clip": (1, 5), "first": (9, 8, 3), "grey": (9, 8, 1), "row": (1, 6)
    }  # fmt: skip
    (record,) = raw.read("valid")
    np.testing.assert_array_equal(record["inputs"]["first"], FIRST[1].transpose(1, 2, 0))
    card = Card.count("mine", raw, "error")
    assert card.kinds == kinds
    assert not card.doubts
    with pytest.raises(ValueError, match=r"data\.kinds: unknown modality"):
        read_npz_folder(tmp_path, {"gray": "image"})
    with pytest.raises(ValueError, match=r"train.npz: grey is of shape \[9, 8\]; the kind vector"):
        read_npz_folder(tmp_path, {"grey": "vector"})
