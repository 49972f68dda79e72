"""Formats and models: what is not taken is refused by name, with the formats that take it."""

import builtins
import sys

import flax.linen as nn
import pytest
import tiny_baselines
import tiny_exports

from sft_jax import BlockSparsePattern, ModalitySpec, ReferenceWindows, WindowPattern, export
from sft_jax.export.features import ALL, features
from sft_jax.modules.depth import with_depth
from sft_jax.modules.simple_fusion import LateFusion
from sft_jax.ops.pool import POOLS, Pool

IDS = ModalitySpec(9, 1, kind="tokens", vocabulary=5)
LONG = {"sound": ModalitySpec(200, 2)}


class OwnFusion(LateFusion):
    pass


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"dtype": "bfloat16"}, r"dtype=bfloat16 \(only float32\)"),
        ({"pool": Pool(POOLS["none"].function)}, r"pool=other \(only max, avg"),
        ({"pool": "joint_topk"}, r"pool=joint_topk \(only max, avg"),
        ({"reference_windows": {"sound": ReferenceWindows(2, 2)}}, "windows=authors"),
        ({"unimodal_pattern": WindowPattern(), "modalities": LONG}, "attention=windowed"),
        ({"pre_pooling_pattern": BlockSparsePattern()}, "attention=block_sparse"),
        ({"tokenizers": {"sound": nn.Dense(8)}}, "tokens=module"),
        ({"modalities": {"row": ModalitySpec(1, 4, kind="vector")}}, "tokens=columns"),
        ({"modalities": {"word": IDS}}, "tokens=ids"),
    ],
)
def test_what_onnx_does_not_take_is_named(attributes, reason):
    model = tiny_exports.tiny_sft.sft(**{"modalities": tiny_exports.MODALITIES} | attributes)
    classifier = export.written.Bundle(model, {}, tiny_exports.info())
    assert export.supported(classifier, "stablehlo") is None
    text = export.supported(classifier, "onnx")
    assert text.startswith("--format=onnx does not take ")
    with pytest.raises(ValueError, match=reason + r".*Formats that take this model: stablehlo"):
        export.write(classifier, "nowhere.onnx", "onnx")


@pytest.mark.parametrize("format", ["c", "html"])
def test_learned_saliency_is_no_c(format):
    model = tiny_exports.tiny_sft.sft(modalities=tiny_exports.MODALITIES, saliency="learned")
    classifier = export.written.Bundle(model, {}, tiny_exports.info())
    text = export.supported(classifier, format)
    assert "saliency=learned (only received, from_cls)" in text
    assert text.endswith("Formats that take this model: stablehlo, onnx, safetensors")


def test_a_model_of_another_package_is_no_graph():
    model = OwnFusion(4, tiny_exports.MODALITIES)
    assert features(model)["model"] == {"other"}
    classifier = export.written.Bundle(model, {}, tiny_exports.info())
    assert "model=other" in export.supported(classifier, "onnx")


@pytest.mark.parametrize("format", ["onnx", "safetensors"])
def test_models_that_leave_out_blocks_are_programs_alone(format):
    model = with_depth(tiny_baselines.make("bottleneck"), 2)
    classifier = export.written.Bundle(model, {}, tiny_exports.info())
    assert "blocks=some (only all)" in export.supported(classifier, format)
    assert export.supported(classifier, "stablehlo") is None


def test_a_pattern_that_saves_nothing_is_dense():
    model = tiny_exports.tiny_sft.sft(unimodal_pattern=WindowPattern())
    assert features(model)["attention"] == {"dense"}


def test_exporters_take_features_that_exist():
    for exporter in export.EXPORTERS.values():
        for feature, values in exporter.takes.items():
            assert set(values) <= set(ALL[feature])


def test_unknown_formats_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"--format='onx': did you mean 'onnx'\?"):
        export.find_exporter("onx")


@pytest.mark.parametrize(("format", "quantize"), [("stablehlo", "int8"), ("onnx", "int4")])
def test_quantisation_that_a_format_lacks_is_refused(format, quantize):
    with pytest.raises(ValueError, match=f"quantize='{quantize}' is not possible"):
        export.write(tiny_exports.classifier(), f"nowhere.{format}", format, quantize=quantize)


def test_a_missing_package_names_the_extra(monkeypatch):
    imports = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.partition(".")[0] == "safetensors":
            raise ModuleNotFoundError("No module named 'safetensors'", name="safetensors")
        return imports(name, *arguments, **keywords)

    for name in ("sft_jax.export.safetensors", "sft_jax.export.safetensors_folder"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sft_jax\[safetensors\]'"):
        export.read("nowhere", "safetensors")


@pytest.mark.parametrize(
    ("attributes", "k", "message"),
    [
        ({}, 7, "k=7 for modality .* must be from 0 to"),
        ({}, {"sight": 1}, "k names .*sight"),
        ({"readout": "fresh_cls"}, 0, "nothing would reach the fusion"),
        ({"pool": "perceiver"}, 1, "a file with pool='perceiver' is for k=3 alone"),
        ({"pool": "none"}, 1, "pool='none' keeps all tokens"),
    ],
)
def test_k_that_a_model_cannot_have_is_refused(attributes, k, message):
    model = tiny_exports.tiny_sft.sft(modalities=tiny_exports.MODALITIES, **attributes)
    classifier = export.written.Bundle(model, {}, tiny_exports.info())
    with pytest.raises(ValueError, match=message):
        export.written.with_k(classifier, k)
