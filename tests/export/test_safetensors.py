"""Folders of the hub's layout: what is read is what was written."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_exports

import sft_jax
from sft_jax import ModalitySpec, WindowPattern, export
from sft_jax.export import safetensors_folder
from sft_jax.export.written import ExportedFileError
from sft_jax.modules.mbt import BottleneckTransformer
from sft_jax.modules.simple_fusion import Unimodal


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("folders") / "a"
    export.write(tiny_exports.classifier(readout="mean"), path, "safetensors", k=2)
    return path


def test_what_is_read_is_what_was_written(folder):
    classifier = tiny_exports.classifier(readout="mean", k=2)
    model, params, info = safetensors_folder.read(folder)
    assert info == classifier.info
    assert model == classifier.model.clone(dtype=np.dtype(np.float32), tokenizers={})
    assert jax.tree.structure(params) == jax.tree.structure(classifier.params)
    jax.tree.map(np.testing.assert_array_equal, params, classifier.params)
    assert safetensors_folder.is_folder(folder)
    assert not safetensors_folder.is_folder(folder.parent)


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


def test_its_thresholds_are_kept(tmp_path):
    classifier = dataclasses.replace(tiny_exports.classifier(), thresholds={"b": 0.25})
    export.write(classifier, tmp_path / "a", "safetensors")
    assert sft_jax.load(tmp_path / "a").thresholds == {"b": 0.25}


def test_the_card_says_what_goes_in_and_out(folder):
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sft_jax\n")
    assert "Predicts one class of a, b, c, d." in card
    assert "| `sight` | 5 x 4 x 2 | 1000, 1001 | 0.5, 1.5 |" in card
    assert "2 tokens of sight are fused" in card


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
