"""The authors' checkpoints become parameters of our models, or an error names the reason.

The golden tests of the models show that the parameters are the right ones.
"""

import pickle
import sys

import chex
import fake_torch
import flax.linen as nn
import jax
import numpy as np
import pytest
import reference
import reference_baselines

from sft_jax import (
    BottleneckTransformer,
    ConcatFusion,
    CrossmodalTransformer,
    LateFusion,
    ModalitySpec,
    ReferenceWindows,
)
from sft_jax.interop.torch_weights import WeightsError, load_torch_weights, read_state_dict
from sft_jax.modules.multimodal import MultimodalClassifier

SHAPES = {
    "rgb_tokenizer.cls_token": (1, 1, 4),
    "rgb_tokenizer.pos_embedding": (1, 3, 4),
    "rgb_tokenizer.proj.weight": (4, 5),
    "rgb_tokenizer.proj.bias": (4,),
    "spec_tokenizer.cls_token": (1, 1, 4),
    "spec_tokenizer.pos_embedding": (1, 4, 4),
    "spec_tokenizer.proj.weight": (4, 6),
    "spec_tokenizer.proj.bias": (4,),
    "network.classifier.0.weight": (4,),
    "network.classifier.0.bias": (4,),
    "network.classifier.1.weight": (3, 4),
    "network.classifier.1.bias": (3,),
}


def tiny(module=LateFusion, names=("rgb", "spec"), **attributes):
    """Model without blocks, which the tensors of `state` fit."""
    specs = (ModalitySpec(2, 5), ModalitySpec(3, 6), ModalitySpec(4, 7))
    defaults = {"num_classes": 3, "modalities": dict(zip(names, specs, strict=False))}
    return module(**defaults | {"width": 4, "num_heads": 2, "n_pre": 0, "n_post": 0} | attributes)


def state(**changed):
    """Tensors for `tiny`; None removes a tensor."""
    random = np.random.default_rng(0)
    arrays = {name: random.normal(size=shape).astype("f4") for name, shape in SHAPES.items()}
    arrays |= {name.replace("__", "."): array for name, array in changed.items()}
    return {name: array for name, array in arrays.items() if array is not None}


def golden(name):
    """Our model of a golden file, and the authors' parameters in it."""
    arrays, config = reference.load(name)
    make = reference.sft_model if name.startswith("sft") else reference_baselines.model
    return make(config), reference.under(arrays, "param/")


@pytest.mark.parametrize(
    ("name", "unused"),
    [
        ("sft_kspad_max", []),
        ("latefuse_ks", []),
        ("concat_ks", []),
        ("mbt_ks", []),
        ("MulT_2_2", ["network.embed_positions._float_tensor"]),
        ("unimodal_rgb_ks", ["spec_tokenizer.", "text_tokenizer."]),
        ("unimodal_spec_ks", ["rgb_tokenizer.", "text_tokenizer."]),
        ("unimodal_text_ks", ["rgb_tokenizer.", "spec_tokenizer."]),
    ],
)
def test_checkpoints_of_all_models_load_completely(name, unused, tmp_path):
    model, arrays = golden(name)
    np.savez(tmp_path / "weights.npz", **arrays)
    params, report = load_torch_weights(tmp_path / "weights.npz", model)
    assert report.missing == report.misshapen == report.unexpected == ()
    unused_tensors = {row.tensors[0] for row in report.unused}
    assert unused_tensors == {name for name in arrays if name.startswith(tuple(unused))}
    loaded = {tensor for row in report.loaded for tensor in row.tensors}
    assert loaded == set(arrays) - unused_tensors
    assert len(report.loaded) == len(jax.tree.leaves(params))
    chex.assert_type(jax.tree.leaves(params), np.float32)
    assert all(name in str(report) for name in arrays)


def test_tensors_that_the_authors_never_use_are_accepted():
    model, arrays = golden("sft_kspad_max")
    extra = {
        "network.fusion_attn.0.in_proj_weight": np.zeros((60, 20)),
        "network.fusion_mlps.2.4.bias": np.zeros(20),
    }
    _, report = load_torch_weights(arrays | extra, model)
    assert {row.tensors[0] for row in report.unused} == set(extra)
    assert "unused: never called; reference_fusion_layer" in str(report)
    with pytest.raises(WeightsError, match="2 unexpected"):
        load_torch_weights(state(**extra), tiny())


def test_slots_map_to_our_modality_names():
    model, arrays = golden("sft_kspad_max")
    names = {"rgb": "vision", "spec": "audio", "text": "words"}
    renamed = {names[slot]: spec for slot, spec in model.modalities.items()}
    ours = model.clone(modalities=renamed, reference_windows=None)
    params, _ = load_torch_weights(arrays, ours, modality_names=names)
    expected, _ = load_torch_weights(arrays, model)
    for slot, name in names.items():
        for module in ("tokenizer_{}", "unimodal_{}_0", "pooling_{}"):
            chex.assert_trees_all_equal(params[module.format(name)], expected[module.format(slot)])
    assert params.keys() - {f"tokenizer_{name}" for name in names.values()} >= {
        "head",
        "fused_last",
    }


def test_mult_in_the_authors_order_needs_no_permutation():
    model, arrays = golden("MulT_1_0")
    names = {"text": "a", "spec": "b", "rgb": "c"}
    ours = model.clone(modalities={names[slot]: spec for slot, spec in model.modalities.items()})
    in_order, _ = load_torch_weights(arrays, ours, modality_names=names)
    reverse, _ = load_torch_weights(arrays, model)
    for params, permuted in ((in_order, False), (reverse, True)):
        norm, hidden = params["self_norm"]["scale"], params["mlp_out"]["bias"]
        assert (norm != arrays["network.atten_norm.weight"]).any() == permuted
        assert (hidden != arrays["network.proj2.bias"]).any() == permuted


@pytest.mark.parametrize(
    ("model", "names", "message"),
    [
        (tiny(names=("eye", "ear")), None, "modality 'ear' must .* of the slots rgb, spec, text; "),
        (tiny(), {"rgb": "rgb"}, "modality 'spec' must stand for exactly one of the slots"),
        (tiny(), {"rgb": "rgb", "spec": "rgb"}, "modality 'rgb' must .*; modality 'spec' must"),
        (tiny(), {"rgb": "rgb", "spec": "spec", "text": "x"}, "'x' is not a modality of the model"),
        (tiny(), {"image": "rgb", "spec": "spec"}, "'image' is not a slot .*: they are rgb, spec,"),
        (
            tiny(BottleneckTransformer, ("eye", "ear"), faithful=True),
            {"rgb": "eye", "spec": "ear"},
            r"order of their names, here ear \(spec\), eye \(rgb\): .* that eye \(rgb\), ear",
        ),
        (
            tiny(ConcatFusion, ("eye", "ear"), reference_windows=ReferenceWindows(2, 2), n_pre=1),
            {"rgb": "eye", "spec": "ear"},
            "so that eye .*, ear .* is their alphabetical order",
        ),
        (
            tiny(CrossmodalTransformer, ("vision", "audio", "text"), n_pre=1),
            {"rgb": "vision", "spec": "audio", "text": "text"},
            "only where the name in slot spec comes between those in rgb and text",
        ),
    ],
)
def test_modality_names_that_do_not_fit_are_refused(model, names, message):
    with pytest.raises(WeightsError, match=message):
        load_torch_weights(state(), model, modality_names=names)


def test_everything_that_does_not_fit_is_tabulated():
    arrays = state(
        network__classifier__1__weight=np.zeros((2, 4)),
        spec_tokenizer__cls_token=None,
        network__attns__0__in_proj_bias=np.zeros(12),
    )
    with pytest.raises(WeightsError) as caught:
        load_torch_weights(arrays, tiny())
    first, *table = str(caught.value).splitlines()
    assert first == (
        "the state_dict does not fit LateFusion; parameters: 10 loaded, 1 missing, 1 misshapen;"
        " tensors: 1 unexpected, 0 unused"
    )
    assert [line.split(maxsplit=1)[0] for line in table] == [
        "tensor",
        "spec_tokenizer.cls_token",
        "network.classifier.1.weight",
        "network.attns.0.in_proj_bias",
    ]
    assert table[1].split()[1:] == ["-", "tokenizer_spec/cls", "missing"]
    assert table[2].endswith(
        "[2, 4]       head/classifier/kernel  misshapen: expected [3, 4], found [2, 4]"
    )
    assert table[3].split()[1:] == ["[12]", "-", "unexpected"]


def test_a_parameter_of_several_tensors_needs_them_all():
    model, arrays = golden("sft_kspad_max")
    del arrays["network.sparse_attn.1.k_proj.bias"]
    with pytest.raises(WeightsError) as caught:
        load_torch_weights(arrays, model)
    status = [line.split(maxsplit=1)[0::1] for line in str(caught.value).splitlines()[2:]]
    path = "pooling_spec/attention/qkv/bias"
    assert [(name.split(".")[3], " ".join(rest.split())) for name, rest in status] == [
        ("q_proj", f"[20] {path} left out: another part is missing"),
        ("k_proj", f"- {path} missing"),
        ("v_proj", f"[20] {path} left out: another part is missing"),
    ]


def test_without_strict_missing_parameters_are_kept():
    ours, _ = load_torch_weights(state(), tiny())
    changed = {
        "network__classifier__1__weight": np.zeros((2, 4)),
        "network__classifier__1__bias": None,
    }
    arrays = {name: array + 1 for name, array in state(**changed).items()}
    params, report = load_torch_weights(arrays, tiny(), strict=False, params=ours)
    assert [row.path for row in report.missing] == [("head", "classifier", "bias")]
    assert [row.path for row in report.misshapen] == [("head", "classifier", "kernel")]
    chex.assert_trees_all_equal(params["head"]["classifier"], ours["head"]["classifier"])
    np.testing.assert_allclose(params["head"]["norm"]["bias"], ours["head"]["norm"]["bias"] + 1)
    for unfit in (None, {"head": {"classifier": {"bias": np.zeros(2)}}}):
        with pytest.raises(WeightsError, match=r"no head/classifier/bias of shape \[3\]"):
            load_torch_weights(arrays, tiny(), strict=False, params=unfit)


def test_without_strict_unexpected_tensors_are_ignored():
    params, report = load_torch_weights(state(other=np.zeros(2)), tiny(), strict=False)
    chex.assert_trees_all_equal(params, load_torch_weights(state(), tiny())[0])
    assert [row.tensors for row in report.unexpected] == [("other",)]


def test_tensors_of_other_modalities_are_unexpected():
    with pytest.raises(WeightsError, match=r"\n(spec_tokenizer\S+ .* unexpected\n?){4}$"):
        load_torch_weights(state(), tiny(names=["rgb"]))


def test_a_parameter_that_the_authors_lack_is_missing():
    model = tiny(BottleneckTransformer, n_post=1)
    with pytest.raises(WeightsError, match=r"bottleneck +missing: the authors' code has no such"):
        load_torch_weights(state(), model)


def test_a_model_that_the_authors_lack_is_an_error():
    class Other(MultimodalClassifier):
        @nn.compact
        def __call__(self, inputs):
            return self.make_head()(inputs["rgb"][:, 0])

    with pytest.raises(TypeError, match="no model like Other"):
        load_torch_weights(state(), tiny(Other))


def test_the_prefix_of_dataparallel_is_removed():
    prefixed = {f"module.{name}": array for name, array in state().items()}
    params, _ = load_torch_weights(prefixed, tiny())
    chex.assert_trees_all_equal(params, load_torch_weights(state(), tiny())[0])
    with pytest.raises(WeightsError, match=r"12 missing.* 13 unexpected"):
        load_torch_weights(prefixed | {"other": np.zeros(2)}, tiny())


def test_parameters_are_float32_copies_unless_asked():
    arrays = {name: array.astype("f8") for name, array in state().items()}
    chex.assert_type(jax.tree.leaves(load_torch_weights(arrays, tiny())[0]), np.float32)
    params, _ = load_torch_weights(arrays, tiny(), dtype=None)
    chex.assert_type(jax.tree.leaves(params), np.float64)
    params["head"]["norm"]["bias"][:] = 7
    assert (arrays["network.classifier.0.bias"] != 7).all()


def _damaged(path, content):
    path.write_bytes(content)
    return path


def test_files_that_cannot_be_read_are_named(tmp_path):
    whole = tmp_path / "whole.npz"
    np.savez(whole, **state())
    content = whole.read_bytes()
    np.savez(objects := tmp_path / "objects.npz", a=np.array([{}], object))
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        load_torch_weights(tmp_path / "none.pth", tiny())
    for path, message in {
        tmp_path / "weights.ckpt": "must end in one of .npz, .pth, .pt",
        _damaged(tmp_path / "half.npz", content[: len(content) // 2]): "half.npz is damaged, or",
        _damaged(tmp_path / "text.npz", b"no zip file"): "text.npz is damaged, or no .npz file",
        _damaged(tmp_path / "empty.npz", b""): "empty.npz is damaged",
        objects: "objects.npz is damaged, or no .npz file: ValueError: Object arrays cannot",
    }.items():
        with pytest.raises(WeightsError, match=message):
            load_torch_weights(path, tiny())


def test_a_pth_file_is_read_without_running_its_code(monkeypatch, tmp_path):
    path = _damaged(tmp_path / "weights.pth", b"")
    tensors = {name: fake_torch.Tensor(array) for name, array in state().items()}
    half = fake_torch.Tensor(state()["rgb_tokenizer.proj.bias"], "bfloat16")
    calls = fake_torch.install(monkeypatch, tensors | {"rgb_tokenizer.proj.bias": half})
    params, _ = load_torch_weights(str(path), tiny())
    chex.assert_trees_all_equal(params, load_torch_weights(state(), tiny())[0])
    assert calls == [(path, {"map_location": "cpu", "weights_only": True})]


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (pickle.UnpicklingError("Namespace"), r"holds more than tensors.*model\.state_dict\(\)"),
        (RuntimeError("unexpected EOF"), "damaged, or no .pth file: RuntimeError: unexpected EOF"),
        (OSError(22, "Invalid argument"), r"damaged, or no .pth file: OSError: \[Errno 22\]"),
        (KeyError(101), "damaged, or no .pth file: KeyError: 101"),
        (fake_torch.Tensor(np.zeros(2)), "holds no state_dict, but a Tensor; save the model's"),
        (
            {"epoch": 3, "model": {}},
            r"tensors: 'epoch' \(int\), 'model' \(dict\); .*\['model'\], FILE\)",
        ),
    ],
)
def test_other_contents_of_a_pth_file_are_errors(loaded, message, monkeypatch, tmp_path):
    path = _damaged(tmp_path / "weights.pth", b"")
    fake_torch.install(monkeypatch, loaded)
    with pytest.raises(WeightsError, match=rf"weights\.pth .*{message}"):
        read_state_dict(path)


def test_without_torch_the_error_tells_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs torch: pip install 'sft_jax\[torch\]'"):
        read_state_dict(_damaged(tmp_path / "weights.pt", b""))
