"""Golden arrays of the authors' code, and our models with its parameters."""

import json
import os
import pathlib

import jax
import numpy as np
import optax

from sft_jax import ModalitySpec, ReferenceWindows, SparseFusionTransformer
from sft_jax.interop.torch_weights import load_torch_weights

FOLDER = pathlib.Path(os.environ.get("SFT_GOLDEN_DIR") or pathlib.Path(__file__).parent / "golden")
MODALITIES = ("rgb", "spec", "text")


def names(*patterns):
    """Names of the files of arrays that fit a pattern."""
    return sorted(path.stem for pattern in patterns for path in FOLDER.glob(f"{pattern}.npz"))


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


def parameters(state, model, dtype=np.float64):
    """The authors' `state_dict` (or the gradients by its names) as parameters of ours."""
    return load_torch_weights(state, model, dtype=dtype)[0]


def modality_specs(config):
    return {
        name: ModalitySpec(length, features)
        for name, length, features in zip(MODALITIES, config["lens"], config["dims"], strict=True)
    }


def run(model, params, inputs, loss_of, *, gradient):
    """Computes intermediates, loss and, where asked, the gradient in one program.

    Args:
      model: Model of ours.
      params: Parameters of the model.
      inputs: Arrays by modality.
      loss_of: Function of logits to the loss.
      gradient: Whether to compute the gradient of the parameters too.

    Returns:
      Intermediates, loss, and the gradient or None, in float32 as the files store theirs.
    """

    def loss(params):
        logits, state = model.apply(
            {"params": params}, inputs, capture_intermediates=True, mutable=True
        )
        return loss_of(logits), state["intermediates"]

    if not gradient:
        value, intermediates = jax.jit(loss)(params)
        return intermediates, value, None
    (value, intermediates), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return intermediates, value, jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), gradients)


def cross_entropy(labels):
    """Mean cross-entropy with these labels, as a function of logits."""
    return lambda logits: optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def assert_equal(tensors, expected, tolerance):
    """Fails unless every expected tensor is among these, within a tolerance."""
    for tensor, value in expected.items():
        np.testing.assert_allclose(
            tensors[tensor], value, rtol=tolerance, atol=tolerance, err_msg=tensor
        )
