"""The authors' baselines: our models that reproduce them, and their tensors."""

import reference

from sft_jax import ReferenceWindows
from sft_jax.modules.mbt import BottleneckTransformer
from sft_jax.modules.mult import CrossmodalTransformer
from sft_jax.modules.simple_fusion import ConcatFusion, LateFusion, Unimodal

_LETTERS = {"rgb": "v", "spec": "a", "text": "l"}
"""MulT's names of the modalities."""


def model(config):
    """Our model in the mode that reproduces the authors' code."""
    attributes = {
        "num_classes": config["n_classes"],
        "modalities": reference.modality_specs(config),
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


def tensors(intermediates, config):
    """Tensors of our model, under the names and in the layout of the golden arrays."""
    named = {"logits": intermediates["__call__"][0]}
    named |= {f"cls_final/{i}": cls for i, cls in enumerate(intermediates["cls"])}
    for name in intermediates:
        if (theirs := their_name(name, config)) is not None:
            named[theirs] = intermediates[name]["__call__"][0].values.swapaxes(0, 1)
    if config["model"] == "MulT":
        named["last_hs"] = intermediates["joined"][0]
        for name in [
            name for name in named if "_mem" in name or name in ("last_hs", "cls_final/0")
        ]:
            named[name] = _reverse_parts(named[name], config["embed_dim"])
    return named


def _reverse_parts(joined, width):
    """MulT joins the features of text, spec, rgb and ours those of rgb, spec, text."""
    return joined.reshape(*joined.shape[:-1], -1, width)[..., ::-1, :].reshape(joined.shape)


def their_name(name, config):
    """Golden name of the tokens that a submodule returns, None if the files lack them."""
    n_pre = config["n_layers_pre_fusion"]
    match config["model"], name.split("_"):
        case "unimodal", ["unimodal", _, i]:
            return f"trunk/block{i}" if int(i) < n_pre else f"fused/block{int(i) - n_pre}"
        case _, ["unimodal", modality, i]:
            return f"{modality}/block{i}"
        case "concat", ["fused", i]:
            return f"trunk/block{i}"
        case "MulT", ["cross", target, "with", source, i]:
            return f"trans_{_LETTERS[target]}_with_{_LETTERS[source]}/{i}"
        case "MulT", ["self", target, i] if i.isdigit():
            return f"trans_{_LETTERS[target]}_mem/{i}"
