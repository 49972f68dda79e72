"""Models whose tokens are larger than those of stride 1, and their parameters.

With stride `s` the patches of a modality are `s` times as long along each axis. A sequence then has
`1 / s` and an image `1 / s²` of the tokens. The tokenizer's kernel is resized as in FlexiViT (Beyer
et al. 2023, arXiv 2212.08013, section 3.4). A model trained with several strides has the kernel of
the largest, its `tokenizer_stride`. `sft_jax.ops.patches` derives those of smaller patches from it.

A kernel of patches that are larger still is the shortest with which an enlarged patch has its old
token. Such a token is that of values averaged over neighbouring positions. A learned position is
the mean over those of the tokens that became one. CLS keeps its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sft_jax.modules.budget import with_budget
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.modules.sft import SparseFusionTransformer
from sft_jax.ops.patches import (
    axis_strides,
    enlarged_kernel,
    enlarged_sizes,
    grid,
    reduced_kernel,
)
from sft_jax.ops.pool import find_pool
from sft_jax.structs import PATCHED, AnyArray, ModalitySpec


def with_stride(model: Any, stride: int) -> Any:
    """Clones a model so that `stride` neighbouring patches along each axis become one token.

    The clone is an ordinary model with larger patches, and a `tokenizer_stride` of 1.
    `resize_params` makes its parameters. An axis with a single patch keeps it. A modality with
    fewer than `k` tokens then keeps them all.

    Args:
      model: Model that was trained, derived from `MultimodalClassifier`.
      stride: Number of patches along each axis.

    Raises:
      ValueError: If the stride is not a positive integer or a patch would exceed its modality.
        Also if the model has tokenizers of its own, or windows that count tokens.
    """
    if not isinstance(stride, int) or stride < 1:
        raise ValueError(f"stride={stride!r} must be an integer of at least 1")
    if stride == 1:
        plain = getattr(model, "tokenizer_stride", 1) == 1
        return model if plain else model.clone(tokenizer_stride=1)
    kind = type(model).__name__
    if not isinstance(model, MultimodalClassifier):
        raise ValueError(
            f"stride={stride}: {kind} must derive from MultimodalClassifier, whose tokenizers can"
            " be resized; allowed is 1"
        )
    if model.tokenizers:
        raise ValueError(
            f"stride={stride}: {kind} has tokenizers of its own for {', '.join(model.tokenizers)};"
            " only patches can be joined, so that 1 is allowed"
        )
    for name in model.mixed_modalities:
        if (own := model.modalities[name].kind) not in PATCHED:
            raise ValueError(
                f"stride={stride}: modality {name!r} is of the kind {own}, whose tokens are no"
                f" patches; only patches can be joined, so that 1 is allowed"
            )
    if getattr(model, "reference_windows", None):
        raise ValueError(
            f"stride={stride}: {kind} has reference_windows, which are made for the tokens of"
            " stride 1; leave them out"
        )
    if problems := model._problems():
        raise ValueError(f"{kind}: " + "; ".join(problems))
    larger = {
        name: _enlarged(name, model.modalities[name], stride) for name in model.mixed_modalities
    }
    if isinstance(model, SparseFusionTransformer) and find_pool(model.pool).uses_k:
        kept = dict(model.kept_tokens())
        fits = {name: min(k, larger[name].num_tokens) for name, k in kept.items()}
        model = model if fits == kept else with_budget(model, fits)
    return model.clone(modalities={**model.modalities, **larger}, tokenizer_stride=1)


def resize_params(model: Any, params: Any, stride: int) -> Any:
    """Computes the parameters of `with_stride(model, stride)`: a linear function of the given ones.

    Args:
      model: Model of stride 1.
      params: Its parameters.
      stride: Number of patches along each axis that become one token.

    Returns:
      Parameters whose tokenizers are resized; all others are the same arrays.

    Raises:
      ValueError: If a modality has no parameters of patches of its size.
    """
    trained = getattr(model, "tokenizer_stride", 1)
    if stride == trained == 1:
        return params
    resized = dict(params)
    for name in model.mixed_modalities:
        own, spec = params.get(f"tokenizer_{name}", {}), model.modalities[name]
        _check_tokenizer(name, own, spec, trained)
        strides = axis_strides(spec, stride)
        kernel = _resized_kernel(own["projection"]["kernel"], spec, trained, stride)
        resized[f"tokenizer_{name}"] = {
            **own,
            "projection": {**own["projection"], "kernel": kernel},
            "position": _pooled_position(own["position"], spec, strides),
        }
    return resized


def _enlarged(name: str, spec: ModalitySpec, stride: int) -> ModalitySpec:
    sizes = enlarged_sizes(spec, stride)
    if any(size > length for size, length in zip(sizes, spec.lengths, strict=True)):
        most = min(n // p for n, p in zip(spec.lengths, spec.patch_sizes, strict=True) if n > p)
        raise ValueError(
            f"stride={stride} for modality {name!r}: patches of {sizes} exceed its length"
            f" {spec.lengths}; allowed are 1 to {most}"
        )
    return dataclasses.replace(spec, patch_size=sizes if len(sizes) > 1 else sizes[0])


def _check_tokenizer(
    name: str, params: Mapping[str, Any], spec: ModalitySpec, trained: int
) -> None:
    """Raises ValueError unless there are parameters of a standard tokenizer of this shape."""
    rows = math.prod((*spec.patch_sizes, *axis_strides(spec, trained), spec.features))
    expected = {"kernel": (rows,), "position": (1, spec.num_tokens + 1)}
    arrays = {
        "kernel": params.get("projection", {}).get("kernel"),
        "position": params.get("position"),
    }
    shapes = {key: None if a is None else a.shape[:-1] for key, a in arrays.items()}
    if shapes != expected:
        raise ValueError(
            f"parameters tokenizer_{name}: expected those of patches of stride {trained}, of shapes"
            f" {expected} before the width, got {shapes}"
        )


def _resized_kernel(
    kernel: Float[AnyArray, "i d"], spec: ModalitySpec, old: int, new: int
) -> Float[Array, "o d"]:
    """Computes the kernel of one stride from that of another, by way of their largest divisor."""
    shared = math.gcd(old, new)
    sizes = enlarged_sizes(spec, shared)
    smaller = reduced_kernel(kernel, sizes, axis_strides(spec, old // shared))
    return enlarged_kernel(smaller, sizes, axis_strides(spec, new // shared))


def _pooled_position(
    position: Float[AnyArray, "1 n d"], spec: ModalitySpec, strides: tuple[int, ...]
) -> Float[Array, "1 m d"]:
    """Computes the mean position of the tokens that become one; the last may have fewer."""
    width = position.shape[-1]
    values = jnp.asarray(position)[0, 1:].reshape(*grid(spec), width)
    for axis, own in enumerate(strides):
        values = _group_means(values, axis, own)
    return jnp.concatenate([position[:, :1], values.reshape(1, -1, width)], axis=1)


def _group_means(values: Array, axis: int, size: int) -> Array:
    """Computes the means of groups of `size` along an axis, the last of those that are left."""
    count, shape = values.shape[axis], values.shape
    filling = [(0, 0)] * values.ndim
    filling[axis] = (0, -count % size)
    grouped = jnp.pad(values, filling).reshape(*shape[:axis], -1, size, *shape[axis + 1 :])
    sizes = np.minimum(size, count - np.arange(0, count, size)).astype(np.float32)
    others = [i for i in range(values.ndim) if i != axis]
    return grouped.sum(axis=axis + 1) / np.expand_dims(sizes, others)
