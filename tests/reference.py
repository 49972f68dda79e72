"""The golden arrays: what the authors' code computed, and its parameters under our names."""

import json
import os
import pathlib

import jax
import numpy as np
import optax

from sft_jax import ModalitySpec, ReferenceWindows, SparseFusionTransformer

FOLDER = pathlib.Path(os.environ.get("SFT_GOLDEN_DIR") or pathlib.Path(__file__).parent / "golden")
MODALITIES = ("rgb", "spec", "text")


def load(name):
    """One file of golden arrays and its config."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        arrays = dict(arrays)
    return arrays, json.loads(str(arrays.get("config_json", "null")))


def under(arrays, prefix):
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def pool(name):
    """Our name of one of the authors' pools."""
    return "channel_topk" if name == "topk" else name


def sft_model(config):
    """Our model in the mode that reproduces the authors' code."""
    windows = zip(config["kernel_sz"], config["stride_sz"], config["padding"], strict=True)
    return SparseFusionTransformer(
        num_classes=config["n_classes"],
        modalities=modality_specs(config),
        width=config["embed_dim"],
        num_heads=config["n_heads"],
        n_pre=config["n_layers_pre_fusion"],
        n_post=config["n_layers_post_fusion"],
        pool=pool(config["pool_type"]),
        reference_fusion_layer=config["ks_pool"] if config["fusion_layer_enabled"] else None,
        k=config["pool_k"],
        reference_windows={
            name: ReferenceWindows(*window)
            for name, window in zip(MODALITIES, windows, strict=True)
        },
    )


def sft_parameters(state, config):
    """The authors' `state_dict` (or the gradients by its names) as parameters of ours."""
    params = {}
    for slot, name in enumerate(MODALITIES):
        params[f"tokenizer_{name}"] = tokenizer(state, name)
        for i in range(config["n_layers_pre_fusion"]):
            params[f"unimodal_{name}_{i}"] = block(state, f"_{name}", i)
        attention = f"network.sparse_attn.{slot}"
        parts = [dense(state, f"{attention}.{part}_proj") for part in "qkv"]
        params[f"pooling_{name}"] = {
            "attention": {
                "qkv": {
                    leaf: np.concatenate([part[leaf] for part in parts], axis=-1)
                    for leaf in ("kernel", "bias")
                },
                "out": dense(state, f"{attention}.out_proj"),
            }
        }
    for i in range(config["n_layers_post_fusion"]):
        params[f"fused_{i}"] = block(state, "_fused", i)
    params["head"] = head(state)
    return params


def modality_specs(config):
    return {
        name: ModalitySpec(length, features)
        for name, length, features in zip(MODALITIES, config["lens"], config["dims"], strict=True)
    }


def tokenizer(state, name):
    return {
        "cls": state[f"{name}_tokenizer.cls_token"],
        "position": state[f"{name}_tokenizer.pos_embedding"],
        "projection": dense(state, f"{name}_tokenizer.proj"),
    }


def head(state):
    return {
        "norm": norm(state, "network.classifier.0"),
        "classifier": dense(state, "network.classifier.1"),
    }


def dense(state, name):
    return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}


def norm(state, name):
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def block(state, stack, i):
    """Block `i` of the authors' stack `""`, `"_rgb"`, `"_fused"` and so on."""
    attention, mlp = f"network.attns{stack}.{i}", f"network.mlps{stack}.{i}"
    return {
        "attention": {
            "qkv": {
                "kernel": state[f"{attention}.in_proj_weight"].T,
                "bias": state[f"{attention}.in_proj_bias"],
            },
            "out": dense(state, f"{attention}.out_proj"),
        },
        "mlp_norm": norm(state, f"{mlp}.0"),
        "mlp_in": dense(state, f"{mlp}.1"),
        "mlp_out": dense(state, f"{mlp}.4"),
    }


def gradients(model, params, inputs, labels):
    """The gradient of the mean cross-entropy, stored in float32 as the files store theirs."""

    def loss(params):
        logits = model.apply({"params": params}, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    gradient = jax.jit(jax.grad(loss))(params)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), gradient)
