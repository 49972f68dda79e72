"""ONNX graphs: every model that they hold gives the same outputs in onnxruntime."""

import json

import numpy as np
import onnx
import pytest
import tiny_exports
from sparing import slow_but

from sft_jax import ModalitySpec, export
from sft_jax.export.onnx.graph import OPSET
from sft_jax.export.written import with_k
from sft_jax.modules.mbt import BottleneckTransformer
from sft_jax.modules.mult import CrossmodalTransformer
from sft_jax.modules.simple_fusion import ConcatFusion, LateFusion, Unimodal

pytestmark = pytest.mark.process

SINGLE_POOLS, LEARNED = tiny_exports.tiny_sft.SINGLE_POOLS, tiny_exports.tiny_sft.LEARNED_POOLS
SALIENT = [pool for pool in tiny_exports.tiny_sft.SALIENT_POOLS if pool in SINGLE_POOLS]
ANY_K = [pool for pool in SINGLE_POOLS if pool not in ("none", *LEARNED)]
VIDEO = {"film": ModalitySpec((4, 3, 3), 2, (2, 2, 2))}
MODELS = {
    "late": (LateFusion, {"n_post": 1}),
    "concat": (ConcatFusion, {"n_post": 1, "task": "ordinal"}),
    "unimodal": (Unimodal, {"n_post": 1, "modality": "sound", "task": "multi_label"}),
    "mbt": (BottleneckTransformer, {"n_post": 2, "task": "regression"}),
    "mult": (CrossmodalTransformer, {"n_post": 1}),
}
READOUTS = {
    "fresh_cls": {"task": "ordinal"},
    "modality_cls": {"task": "multi_label", "k": {"sight": 1, "sound": 2}},
    "mean": {"task": "regression", "pool": "tome"},
    "attention": {"pool": "tome", "n_post": 3},
}


def _close(classifier, path, k=None):
    """Raises unless the file computes what the model does."""
    written = export.write(classifier, path, "onnx")
    values, masks = tiny_exports.raw_inputs(classifier.info.modalities)
    expected = tiny_exports.expected(with_k(classifier, k), values, masks)
    outputs = written.predict(values, masks, k=k)
    assert np.abs(outputs - expected).max() < 1e-5
    return written


@pytest.mark.parametrize("pool", SINGLE_POOLS)
def test_every_pool_is_exported(pool, tmp_path):
    # One pool has blocks before pooling, where all pools are the same.
    n_pre = 1 if pool == "attn_topk" else 0
    _close(tiny_exports.classifier(pool=pool, n_pre=n_pre), tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("saliency", "pool"),
    slow_but(
        [(s, p) for s in ("from_cls", "learned") for p in SALIENT],
        *[("from_cls", "evit"), ("learned", "attn_topk"), ("learned", "attn_wkmedoids")],
    ),
)
def test_every_saliency_is_exported(saliency, pool, tmp_path):
    classifier = tiny_exports.classifier(pool=pool, saliency=saliency, n_pre=0, k=2)
    _close(classifier, tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("pool", "k"),
    slow_but(
        [(p, k) for p in ANY_K for k in (0, 1, 4)],
        *[("max", 0), ("tome", 1), ("evit", 1)],
    ),
)
def test_k_is_an_input(pool, k, tmp_path):
    _close(tiny_exports.classifier(pool=pool, n_pre=0), tmp_path / "a.onnx", k)


@pytest.mark.parametrize("readout", READOUTS)
def test_every_readout_and_task_is_exported(readout, tmp_path):
    own = {"readout": readout, **READOUTS[readout]}
    _close(tiny_exports.classifier(**own), tmp_path / "a.onnx")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_exported(name, tmp_path):
    kind, own = MODELS[name]
    model = kind(4, tiny_exports.MODALITIES, width=8, num_heads=2, n_pre=1, **own)
    _close(tiny_exports.classifier(model), tmp_path / "a.onnx")


def test_a_modality_of_three_axes_is_exported(tmp_path):
    classifier = tiny_exports.classifier(modalities=VIDEO, n_pre=0)
    _close(classifier, tmp_path / "a.onnx")


def test_an_absent_modality_may_be_left_out(tmp_path):
    classifier = tiny_exports.classifier()
    written = export.write(classifier, tmp_path / "a.onnx", "onnx")
    values, masks = tiny_exports.raw_inputs()
    without = written.predict({"sound": values["sound"], "sight": None}, {"sound": masks["sound"]})
    masks["sight"][:] = False
    np.testing.assert_array_equal(without, written.predict(values, masks))
    short = {"sound": values["sound"][:, :3]}
    masks["sound"][:, 3:] = False
    np.testing.assert_array_equal(
        written.predict(short, {"sound": masks["sound"][:, :3]}), written.predict(values, masks)
    )


def test_the_file_describes_itself(tmp_path):
    written = export.write(tiny_exports.classifier(), tmp_path / "a.onnx", "onnx", k=2)
    model = onnx.load(tmp_path / "a.onnx")
    assert [entry.version for entry in model.opset_import] == [OPSET]
    (stored,) = (json.loads(p.value) for p in model.metadata_props if p.key == "sft_jax")
    assert stored == written.metadata
    assert stored["k"] == {"sight": 2, "sound": 2}
    assert stored["k_most"] == {"sight": 6, "sound": 4}
    assert stored["dataset"]["class_names"] == ["a", "b", "c", "d"]
    names = [value.name for value in model.graph.input]
    assert names == ["sight", "sight_mask", "sound", "sound_mask", "k"]


def test_int8_is_smaller_and_near(tmp_path):
    classifier = tiny_exports.classifier(width=32)
    whole = export.write(classifier, tmp_path / "a.onnx", "onnx")
    small = export.write(classifier, tmp_path / "b.onnx", "onnx", quantize="int8")
    assert small.path.stat().st_size < whole.path.stat().st_size
    assert small.metadata == whole.metadata
    values, masks = tiny_exports.raw_inputs()
    difference = np.abs(small.predict(values, masks) - whole.predict(values, masks)).max()
    assert 1e-5 < difference < 0.5


@pytest.mark.parametrize("k", [-1, 7, {"sight": 1}, "4"])
def test_k_out_of_range_is_refused(k, tmp_path):
    written = export.write(tiny_exports.classifier(), tmp_path / "a.onnx", "onnx")
    with pytest.raises(
        ValueError, match=r"k=.* takes whole numbers from 0 to \{'sight': 6, 'sound': 4\}"
    ):
        written.predict(tiny_exports.raw_inputs()[0], k=k)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"smell": np.zeros((1, 7, 2))}, "unknown modality"),
        ({}, "no input"),
        ({"sound": np.full((1, 7, 2), "1")}, "sound: expected an array of numbers, got <U1"),
        (
            {"sound": [np.zeros((7, 2)), np.zeros((5, 2))]},
            "sound: the examples have unlike shapes; pad",
        ),
        ({"sound": 1.0}, "sound: expected an array of numbers, got a single number"),
        ({"sound": np.zeros((1, 8, 2))}, r"sound: expected \[batch, 7, 2\] at most"),
        ({"sound": np.zeros((1, 7, 2)), "sight": np.zeros((2, 5, 4, 2))}, "one batch size"),
    ],
)
def test_wrong_inputs_are_named(inputs, message, tmp_path):
    written = export.write(tiny_exports.classifier(), tmp_path / "a.onnx", "onnx")
    with pytest.raises(ValueError, match=message):
        written.predict(inputs)


def test_a_file_of_another_version_is_refused(tmp_path):
    export.write(tiny_exports.classifier(), tmp_path / "a.onnx", "onnx")
    model = onnx.load(tmp_path / "a.onnx")
    stored = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps(stored | {"format_version": 99})
    onnx.save(model, tmp_path / "b.onnx")
    with pytest.raises(export.written.ExportedFileError, match="format version 99"):
        export.read(tmp_path / "b.onnx", "onnx")
    model.metadata_props[0].value = "{"
    onnx.save(model, tmp_path / "b.onnx")
    with pytest.raises(export.written.ExportedFileError, match="its metadata is damaged"):
        export.read(tmp_path / "b.onnx", "onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "c.onnx")
    with pytest.raises(export.written.ExportedFileError, match="no metadata"):
        export.read(tmp_path / "c.onnx", "onnx")
    (tmp_path / "d.onnx").write_text("no graph")
    with pytest.raises(export.written.ExportedFileError, match="no graph that runs"):
        export.read(tmp_path / "d.onnx", "onnx")
