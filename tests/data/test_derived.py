"""Derived modalities: of real steps, standardised by column, and known to predictions."""

import dataclasses
import json
import sys
import types

import npz_examples
import numpy as np
import pytest
from rich.console import Console

from sft_jax import config_io
from sft_jax.data import derived, registry
from sft_jax.data.arrays import from_arrays
from sft_jax.data.card_report import print_card
from sft_jax.data.dataset import DatasetInfo, padded_inputs
from sft_jax.data.outline import outline
from sft_jax.data.sets.watch.entry import WatchData
from sft_jax.inference.inputs import InputReader

RULES = {"motion_summary": "summary:motion"}
N = 6
RNG = np.random.default_rng(0)
MOTION = [RNG.normal(size=(20 + i, 2)) * [1, 100] + [0, 1e4] for i in range(N)]
HEART = RNG.normal(size=(N, 5, 1))


def dataset(motion=MOTION, **options):
    inputs = {"motion": motion, "heart": HEART}
    splits = ("train", "valid")
    labels = dict.fromkeys(splits, np.arange(N) % 2)
    return from_arrays(dict.fromkeys(splits, inputs), labels, ("no", "yes"), **options)


def rows(data, name="motion_summary"):
    return np.concatenate([example["inputs"][name] for example in data.source("train")])


def test_a_tone_is_in_its_octave():
    tone = 3 * np.sin(2 * np.pi * 5 * np.arange(200) / 200)
    mean, least, lower, upper, most, deviation, *octaves = derived.summary(tone[:, None] + 7)
    assert mean == pytest.approx(7)
    assert (least, most) == (pytest.approx(4, abs=0.01), pytest.approx(10, abs=0.01))
    assert lower == pytest.approx(7 - 3 / np.sqrt(2), abs=0.1)
    assert upper == pytest.approx(7 + 3 / np.sqrt(2), abs=0.1)
    assert deviation**2 == pytest.approx(3 / np.sqrt(2))
    assert np.argmax(octaves) == 2  # 4 to 7 cycles
    assert len(octaves) == 6


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_a_constant_has_no_spectrum_and_no_rounding_errors(steps):
    row = derived.summary(np.full((steps, 3), [0.1, -1e9, 0])).reshape(12, 3)
    np.testing.assert_allclose(row[:5], np.tile([0.1, -1e9, 0], (5, 1)))
    assert not row[5:].any()


def test_each_column_is_standardised_whatever_the_units():
    data = dataset(derived=RULES)
    assert data.info.modalities["motion_summary"].shape == (1, 24)
    own = rows(data)
    np.testing.assert_allclose(own.mean(axis=0), 0, atol=1e-5)
    spread = own.std(axis=0)
    np.testing.assert_allclose(spread[spread > 0], 1, atol=1e-5)
    assert (spread == 0).sum() == 2 * 2  # Octaves beyond 25 steps are empty.
    scaled = dataset([1e-6 * values + 3 for values in MOTION], derived=RULES)
    np.testing.assert_allclose(rows(scaled), own, atol=1e-3)


def test_only_real_steps_count_and_an_absent_source_has_none():
    wild = [np.concatenate([values[:3], [[1e6, -1e6]], values[3:]]) for values in MOTION]
    wild[2] = None
    masks = [None if values is None else np.arange(len(values)) != 3 for values in wild]
    gaps = dataset(
        wild, derived=RULES, masks={split: {"motion": masks} for split in ("train", "valid")}
    )
    whole = dataset([None if i == 2 else values for i, values in enumerate(MOTION)], derived=RULES)
    np.testing.assert_array_equal(rows(gaps), rows(whole))
    present = [example["masks"]["motion_summary"].tolist() for example in gaps.source("train")]
    assert present == [[i != 2] for i in range(N)]


@pytest.mark.parametrize("policy", ["zero", "mean", "drop"])
def test_numbers_that_are_not_finite_are_treated_before(policy):
    holes = [values.copy() for values in MOTION]
    holes[0][4] = np.nan
    data = dataset(holes, not_finite=policy, derived=RULES)
    cleaned = dict(data.records("train")[0]["inputs"])
    assert np.isfinite(cleaned["motion"]).all()
    expected = derived.summary(cleaned["motion"].astype(np.float64))[None]
    np.testing.assert_array_equal(cleaned["motion_summary"], expected)
    reader = InputReader(data.info, ("motion_summary",), policy)
    read = reader.read("x", {"motion": holes[0]})
    np.testing.assert_allclose(read.values["motion_summary"], rows(data)[:1], atol=1e-5)


def test_predictions_take_raw_series():
    data = dataset(derived=RULES)
    used = tuple(sorted(data.info.modalities))
    for i, example in enumerate(data.source("train")):
        raw = {"motion": MOTION[i], "heart": HEART[i]}
        read = InputReader(data.info, used).read(i, raw)
        assert read.lengths["motion_summary"] == (1,)
        for name in used:
            np.testing.assert_array_equal(read.values[name], example["inputs"][name])
    given = np.zeros((1, 24))
    read = InputReader(data.info, used).read(0, {"motion": MOTION[0], "motion_summary": given})
    assert read.values["motion_summary"][0, 0] != example["inputs"]["motion_summary"][0, 0]
    np.testing.assert_array_equal(
        read.values["motion_summary"],
        data.info.statistics["motion_summary"].apply(given),
    )
    assert set(InputReader(data.info, used).read(0, {"heart": HEART[0]}).values) == {"heart"}
    alone = InputReader(data.info, ("motion_summary",))
    assert set(alone.read(0, {"motion": MOTION[0]}).values) == {"motion_summary"}
    with pytest.raises(ValueError, match=r"example 0: motion is not finite at step 1"):
        alone.read(0, {"motion": np.where(np.arange(20)[:, None] == 1, np.nan, 1.0) * [1, 1]})
    with pytest.raises(ValueError, match=r"motion is of shape \[20, 3\]"):
        alone.read(0, {"motion": np.zeros((20, 3))})


def test_another_dataset_is_completed_like_that_of_the_run():
    plain, own = dataset(), dataset(derived=RULES)
    like = plain.like(own.info)
    np.testing.assert_array_equal(rows(like), rows(own))
    assert like.fingerprint("train") == own.fingerprint("train")
    assert plain.fingerprint("train") != own.fingerprint("train")
    other = dataclasses.replace(own.info, derived={"motion_summary": "summary:heart"})
    with pytest.raises(ValueError, match=r"derived modalities of the dataset: .*summary:motion"):
        own.like(other)


def test_the_description_keeps_the_rules_and_says_nothing_without():
    plain, own = dataset(), dataset(derived=RULES)
    assert "derived" not in plain.info.to_json()
    assert "derived" not in plain.card.to_json()
    again = DatasetInfo.from_json(json.loads(json.dumps(own.info.to_json())))
    assert again == own.info
    assert again.derived == RULES
    assert own.card.to_json()["derived"] == RULES
    assert own.info.differences(dataclasses.replace(own.info, derived={})) == ["derived"]


def test_prepared_data_holds_them_under_another_name(tmp_path, capsys):
    folder = npz_examples.write(tmp_path / "raw")
    plain = {"name": "npz_folder", "manual_dir": str(folder), "data_dir": str(tmp_path / "data")}
    plain["kinds"] = {"touch": "series"}
    rules = {"tones": "summary:sound"}
    before = registry.open_dataset(registry.parse(plain))
    entry = registry.parse({**plain, "derived": rules})
    data = registry.open_dataset(entry)
    assert data.prepared["config"].startswith(before.prepared["config"] + "_derived_")
    assert data.info.derived == rules
    assert data.info.statistics.items() > before.info.statistics.items()
    for record in data.records("test"):
        expected = derived.summary(record["inputs"]["sound"].astype(np.float64))
        np.testing.assert_array_equal(record["inputs"]["tones"], expected[None])
        inputs, _ = padded_inputs(
            data.info, {**record, "inputs": {"sound": record["inputs"]["sound"]}}
        )
        assert inputs["tones"].any()
    assert registry.prepared_card(entry).derived == rules
    print_card(Console(width=120), data.card)
    assert "series, summary:sound" in capsys.readouterr().out
    assert registry.read_raw(entry).shapes["tones"] == (1, 60)
    chosen = dataclasses.replace(entry, modalities=("sound", "touch"))
    assert not registry.open_dataset(chosen).info.derived
    with pytest.raises(ValueError, match=r"data.modalities: tones is derived from sound"):
        registry.open_dataset(dataclasses.replace(entry, modalities=("tones",)))
    image = dataclasses.replace(entry, derived={"tones": "summary:image"})
    with pytest.raises(ValueError, match=r"image is of kind image; expected a series"):
        registry.open_dataset(image)


def test_the_outline_needs_no_data():
    known = outline(WatchData(derived={"summary": "summary:gyroscope"})).modalities
    assert known["summary"].shape == (1, 36)
    assert known["summary"].num_tokens == 1
    assert known["gyroscope"].patch_size == 10


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"a": "summary"}, "'summary': expected a name and FUNCTION:SOURCE"),
        ({" ": "summary:gyroscope"}, "expected a name and FUNCTION:SOURCE"),
        ({"a": "sumary:gyroscope"}, "unknown function; did you mean 'summary'"),
        ({"a": "summary:gyro"}, "no modality 'gyro' to read; did you mean 'gyroscope'"),
        ({"a": "summary:gyroscope", "b": "summary:a"}, "data.derived.b='summary:a': there is no"),
        ({"a": "numpy:size:gyroscope"}, r"finite numbers from numpy:size, got shape \[\] "),
        ({"a": "numpy:no:gyroscope"}, "module 'numpy' has no attribute 'no'"),
    ],
)
def test_wrong_rules_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        outline(config_io.from_mapping({"data": {"name": "watch", "derived": rules}}).data)


def test_the_name_of_a_modality_is_taken():
    with pytest.raises(ValueError, match=r"derived.heart: the data has a modality of this name"):
        dataset(derived={"heart": "summary:motion"})


def test_functions_of_other_packages_are_imported(monkeypatch):
    module = types.ModuleType("other")
    module.range = lambda values: np.ptp(values, axis=0)
    module.first = lambda values: values[:, 0]
    monkeypatch.setitem(sys.modules, "other", module)
    data = dataset(derived={"range": "other:range:motion"})
    record = data.records("train")[1]["inputs"]
    np.testing.assert_allclose(record["range"], np.ptp(MOTION[1], axis=0)[None], rtol=1e-6)
    with pytest.raises(ValueError, match=r"range is of shape \[1, 20\], expected"):
        dataset(derived={"range": "other:first:motion"})


def test_sentences_name_function_and_source():
    assert derived.sentences({"a": "my.module:f:b"}) == ["a is computed from b by my.module:f"]
