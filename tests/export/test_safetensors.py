"""Folders of the hub's layout: what is read is what was written."""

import dataclasses
import json

import fake_bucket
import jax
import numpy as np
import pytest
import tiny_exports

import sft_jax
from sft_jax import ModalitySpec, WindowPattern, export
from sft_jax.data import derived
from sft_jax.export import layout, safetensors_folder
from sft_jax.export.written import ExportedFileError
from sft_jax.modules.mbt import BottleneckTransformer
from sft_jax.modules.simple_fusion import Unimodal
from sft_jax.runs import storage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("folders") / "a"
    export.write(tiny_exports.classifier(readout="mean"), path, "safetensors", k=2)
    return path


def test_what_is_read_is_what_was_written(folder):
    classifier = tiny_exports.classifier(readout="mean", k=2)
    read = safetensors_folder.read(folder)
    assert read.info == classifier.info
    assert read.model == classifier.model.clone(dtype=np.dtype(np.float32), tokenizers={})
    assert jax.tree.structure(read.params) == jax.tree.structure(classifier.params)
    jax.tree.map(np.testing.assert_array_equal, read.params, classifier.params)
    assert layout.is_folder(folder)
    assert not layout.is_folder(folder.parent)


def test_it_predicts_what_the_model_does(folder):
    classifier = tiny_exports.classifier(readout="mean", k=2)
    values, masks = tiny_exports.raw_inputs()
    outputs = export.read(folder, "safetensors").predict(values, masks)
    expected = tiny_exports.expected(classifier, values, masks)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_it_is_loaded_like_a_run(folder):
    loaded = sft_jax.load(folder)
    values = {name: array[:1] for name, array in tiny_exports.raw_inputs()[0].items()}
    outputs = export.read(folder, "safetensors").predict(values)
    np.testing.assert_allclose(loaded.predict_proba(values), outputs, atol=1e-5)
    with pytest.raises(ValueError, match="holds one model"):
        sft_jax.load(folder, "latest")


def test_its_thresholds_and_temperature_are_kept(tmp_path):
    chosen = {"thresholds": {"b": 0.25}, "temperature": 1.5}
    classifier = dataclasses.replace(tiny_exports.classifier(), **chosen)
    export.write(classifier, tmp_path / "a", "safetensors")
    loaded = sft_jax.load(tmp_path / "a")
    assert {name: getattr(loaded, name) for name in chosen} == chosen


def test_a_folder_in_a_bucket_is_loaded(folder, monkeypatch):
    bucket = fake_bucket.install(monkeypatch)
    storage.copy_files(folder, bucket / "a")
    assert sft_jax.load("gs://bucket/a").info == tiny_exports.info()
    with pytest.raises(ValueError, match="gs://bucket/b is in a bucket: give a local path"):
        export.write(tiny_exports.classifier(), "gs://bucket/b", "safetensors")


def test_the_treatment_of_nan_is_that_of_the_run(tmp_path):
    classifier = dataclasses.replace(tiny_exports.classifier(), not_finite="mean")
    export.write(classifier, tmp_path / "a", "safetensors")
    loaded = sft_jax.load(tmp_path / "a")
    sound = tiny_exports.raw_inputs()[0]["sound"][0]
    sound[2] = classifier.info.statistics["sound"].mean
    expected = loaded.predict_proba({"sound": sound})
    sound[2] = np.nan
    np.testing.assert_allclose(loaded.predict_proba({"sound": sound}), expected, rtol=1e-5)


def test_folders_of_earlier_releases_refuse_nan(folder, tmp_path):
    values = json.loads((_changed(folder, tmp_path / "a") / "config.json").read_text())
    del values["not_finite"]
    (tmp_path / "a" / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="sound is not finite at step 0"):
        sft_jax.load(tmp_path / "a").predict({"sound": np.full((7, 2), np.nan)})


def test_the_card_says_what_goes_in_and_out(folder):
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sft_jax\n")
    assert "Predicts one class of a, b, c, d." in card
    assert "| `sight` | 5 x 4 x 2 | 1000, 1001 | 0.5, 1.5 |" in card
    assert "2 tokens of sight are fused" in card


def test_derived_inputs_are_computed(tmp_path):
    own = tiny_exports.with_summary()
    export.write(own, tmp_path / "a", "safetensors")
    card = (tmp_path / "a" / "README.md").read_text()
    assert "absent. touch_summary is computed from touch by summary, unless it is given.\n" in card
    assert 'classifier.predict({"touch": touch})' in card
    touch = 1000 + np.random.default_rng(0).normal(size=(3, 8, 2))
    rows = np.stack([derived.summary(values)[None] for values in touch])
    loaded = sft_jax.load(tmp_path / "a")
    given = loaded.predict_proba({"touch": touch, "touch_summary": rows})
    np.testing.assert_array_equal(loaded.predict_proba({"touch": touch}), given)
    others = loaded.predict_proba({"touch": touch, "touch_summary": rows + 1})
    assert not np.allclose(others, given, atol=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        Unimodal(4, tiny_exports.MODALITIES, modality="sound", width=8, num_heads=2, n_post=1),
        BottleneckTransformer(4, tiny_exports.MODALITIES, width=8, num_heads=2, n_post=1),
    ],
    ids=["unimodal", "mbt"],
)
def test_other_models_are_built_again(model):
    fields = safetensors_folder.model_config(model)
    assert fields["name"] in ("unimodal", "mbt")
    assert fields["width"] == 8


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            BottleneckTransformer(4, tiny_exports.MODALITIES, num_bottlenecks=2),
            "no config has these attributes of the model: num_bottlenecks=2",
        ),
        (
            tiny_exports.classifier(unimodal_pattern=WindowPattern(2, 1, 1)).model,
            "no config has these attributes of the model: unimodal_pattern=WindowPattern",
        ),
    ],
)
def test_attributes_that_no_config_has_are_named(model, message):
    with pytest.raises(ValueError, match=message):
        safetensors_folder.model_config(model)


def _changed(folder, path, **changes):
    path.mkdir()
    for name in ("model.safetensors", "config.json"):
        (path / name).write_bytes((folder / name).read_bytes())
    values = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(values | changes))
    return path


def test_folders_of_another_version_or_damaged_are_refused(folder, tmp_path):
    with pytest.raises(ExportedFileError, match="format version 7"):
        safetensors_folder.read(_changed(folder, tmp_path / "a", format_version=7))
    info = tiny_exports.info(modalities={"sight": ModalitySpec(9, 2), "sound": ModalitySpec(7, 2)})
    wrong = _changed(folder, tmp_path / "b", dataset=info.to_json())
    with pytest.raises(ExportedFileError, match=r"does not fit config.json: tokenizer_sight"):
        safetensors_folder.read(wrong)
    cut = _changed(folder, tmp_path / "c")
    (cut / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ExportedFileError, match="is damaged"):
        safetensors_folder.read(cut)
    with pytest.raises(ExportedFileError, match="is not a folder of --format=safetensors"):
        safetensors_folder.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"pool": "best"}}, r"needs sft_jax .*model\.pool: 'best' is not one of max"),
        ({"config": {"new": 1}}, r"needs sft_jax .*model\.new: unknown key"),
        ({"config": {"width": 16}}, r"does not fit config\.json: .* and \d+ more arrays"),
        ({"not_finite": "ignore"}, "not_finite='ignore' is not one of"),
    ],
)
def test_entries_of_newer_releases_are_named(folder, tmp_path, changes, message):
    own = json.loads((folder / "config.json").read_text())["config"]
    if "config" in changes:
        changes = {"config": own | changes["config"]}
    with pytest.raises(ExportedFileError, match=f"(?s){message}"):
        sft_jax.load(_changed(folder, tmp_path / "a", **changes))


def test_a_folder_without_weights_is_named(folder, tmp_path):
    (_changed(folder, tmp_path / "a") / "model.safetensors").unlink()
    with pytest.raises(ExportedFileError, match=r"is damaged.* No such file"):
        sft_jax.load(tmp_path / "a")
