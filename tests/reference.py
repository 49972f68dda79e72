"""The golden arrays: what the authors' code computed, and its parameters under our names."""

import json
import os
import pathlib

import numpy as np

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


def sft_model(config):
    """Our model in the mode that reproduces the authors' code."""
    windows = zip(config["kernel_sz"], config["stride_sz"], config["padding"], strict=True)
    return SparseFusionTransformer(
        num_classes=config["n_classes"],
        modalities={
            name: ModalitySpec(length, features)
            for name, length, features in zip(
                MODALITIES, config["lens"], config["dims"], strict=True
            )
        },
        width=config["embed_dim"],
        num_heads=config["n_heads"],
        n_pre=config["n_layers_pre_fusion"],
        n_post=config["n_layers_post_fusion"],
        pool=config["pool_type"],
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
        tokenizer = f"{name}_tokenizer"
        params[f"tokenizer_{name}"] = {
            "cls": state[f"{tokenizer}.cls_token"],
            "position": state[f"{tokenizer}.pos_embedding"],
            "projection": _dense(state, f"{tokenizer}.proj"),
        }
        for i in range(config["n_layers_pre_fusion"]):
            params[f"unimodal_{name}_{i}"] = _block(state, name, i)
        attention = f"network.sparse_attn.{slot}"
        parts = [_dense(state, f"{attention}.{part}_proj") for part in "qkv"]
        params[f"pooling_{name}"] = {
            "attention": {
                "qkv": {
                    leaf: np.concatenate([part[leaf] for part in parts], axis=-1)
                    for leaf in ("kernel", "bias")
                },
                "out": _dense(state, f"{attention}.out_proj"),
            }
        }
    for i in range(config["n_layers_post_fusion"]):
        params[f"fused_{i}"] = _block(state, "fused", i)
    params["head"] = {
        "norm": _norm(state, "network.classifier.0"),
        "classifier": _dense(state, "network.classifier.1"),
    }
    return params


def _dense(state, name):
    return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}


def _norm(state, name):
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def _block(state, name, i):
    attention, mlp = f"network.attns_{name}.{i}", f"network.mlps_{name}.{i}"
    return {
        "attention": {
            "qkv": {
                "kernel": state[f"{attention}.in_proj_weight"].T,
                "bias": state[f"{attention}.in_proj_bias"],
            },
            "out": _dense(state, f"{attention}.out_proj"),
        },
        "mlp_norm": _norm(state, f"{mlp}.0"),
        "mlp_in": _dense(state, f"{mlp}.1"),
        "mlp_out": _dense(state, f"{mlp}.4"),
    }
