"""The authors' baselines: our models that reproduce them, and their parameters under our names."""

import numpy as np
import reference

from sft_jax import ReferenceWindows
from sft_jax.modules.bottleneck import BottleneckTransformer
from sft_jax.modules.crossmodal import CrossmodalTransformer
from sft_jax.modules.simple_fusion import ConcatFusion, LateFusion, Unimodal

# MulT joins features in the order text, spec, rgb, and ours in that of the names; so in its
# files the modalities get names of that order here.
CROSSMODAL_NAMES = {"text": "a_text", "spec": "b_spec", "rgb": "c_rgb"}
_LETTERS = {"l": "a_text", "a": "b_spec", "v": "c_rgb"}


def name_of(modality, config):
    """Our name of a modality in the model of a file."""
    return CROSSMODAL_NAMES[modality] if config["model"] == "MulT" else modality


def model(config):
    """Our model in the mode that reproduces the authors' code."""
    modalities = reference.modality_specs(config)
    attributes = {
        "num_classes": config["n_classes"],
        "modalities": {name_of(name, config): spec for name, spec in modalities.items()},
        "width": config["embed_dim"],
        "num_heads": config["n_heads"],
        "n_pre": config["n_layers_pre_fusion"],
        "n_post": config["n_layers_post_fusion"],
    }
    # Theirs for every modality, without padding.
    windows = ReferenceWindows(config["kernel_sz"][0], config["stride_sz"][0])
    match config["model"]:
        case "latefuse":
            return LateFusion(**attributes, faithful=True)
        case "concat":
            return ConcatFusion(**attributes, reference_windows=windows)
        case "unimodal":
            modality = config["modality"]
            return Unimodal(**attributes, modality=modality, reference_windows=windows)
        case "mbt":
            return BottleneckTransformer(**attributes, faithful=True)
        case "MulT":
            return CrossmodalTransformer(**attributes)


def parameters(state, config):
    """The authors' `state_dict` (or the gradients by its names) as parameters of ours."""
    n_pre, n_post = config["n_layers_pre_fusion"], config["n_layers_post_fusion"]
    used = [config["modality"]] if config["model"] == "unimodal" else reference.MODALITIES
    params = {
        f"tokenizer_{name_of(name, config)}": reference.tokenizer(state, name) for name in used
    }
    params["head"] = reference.head(state)
    for i in range(n_pre + n_post):
        match config["model"]:
            case "latefuse" | "mbt":
                for name in used:
                    params[f"unimodal_{name}_{i}"] = reference.block(state, f"_{name}", i)
            case "concat":
                params[f"fused_{i}"] = reference.block(state, "", i)
            case "unimodal":
                stack = ("", i) if i < n_pre else ("_fused", i - n_pre)
                params[f"unimodal_{used[0]}_{i}"] = reference.block(state, *stack)
    return params | _crossmodal(state, config) if config["model"] == "MulT" else params


def tensors(intermediates, config):
    """What our model computed, under the names and in the layout of the golden arrays."""
    found = {"logits": intermediates["__call__"][0]}
    found |= {f"cls_final/{i}": cls for i, cls in enumerate(intermediates["cls"])}
    for name in intermediates:
        if (ours := our_name(name, config)) is not None:
            found[ours] = intermediates[name]["__call__"][0].values.swapaxes(0, 1)
    return found


def our_name(name, config):
    """The golden name of what a submodule returns, None if the files don't hold it."""
    n_pre = config["n_layers_pre_fusion"]
    letters = {ours: letter for letter, ours in _LETTERS.items()}
    match config["model"], name.split("_"):
        case "unimodal", ["unimodal", _, i]:
            return f"trunk/block{i}" if int(i) < n_pre else f"fused/block{int(i) - n_pre}"
        case _, ["unimodal", modality, i]:
            return f"{modality}/block{i}"
        case "concat", ["fused", i]:
            return f"trunk/block{i}"
        case "MulT", ["cross", *target, "with", order, source, i]:
            pair = letters["_".join(target)], letters[f"{order}_{source}"]
            return f"trans_{pair[0]}_with_{pair[1]}/{i}"
        case "MulT", ["self", order, target, i]:
            return f"trans_{letters[f'{order}_{target}']}_mem/{i}"


def _crossmodal(state, config):
    params = {}
    for target, ours in _LETTERS.items():
        for source, other in _LETTERS.items():
            for i in range(config["n_layers_pre_fusion"] if source != target else 0):
                layer = _layer(state, f"network.trans_{target}_with_{source}.{i}")
                params[f"cross_{ours}_with_{other}_{i}"] = layer
        for i in range(config["n_layers_post_fusion"]):
            params[f"self_{ours}_{i}"] = _layer(state, f"network.trans_{target}_mem.{i}")
    return params | {
        "cross_norm": reference.norm(state, "network.cross_modal_norm"),
        "self_norm": reference.norm(state, "network.atten_norm"),
        "mlp_in": reference.dense(state, "network.proj1"),
        "mlp_out": reference.dense(state, "network.proj2"),
    }


def _layer(state, name):
    kernels = np.split(state[f"{name}.self_attn.in_proj_weight"], 3)
    biases = np.split(state[f"{name}.self_attn.in_proj_bias"], 3)
    return {
        part: {"kernel": kernel.T, "bias": bias}
        for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True)
    } | {
        "out": reference.dense(state, f"{name}.self_attn.out_proj"),
        "attention_norm": reference.norm(state, f"{name}.layer_norms.0"),
        "mlp_norm": reference.norm(state, f"{name}.layer_norms.1"),
        "mlp_in": reference.dense(state, f"{name}.fc1"),
        "mlp_out": reference.dense(state, f"{name}.fc2"),
    }
