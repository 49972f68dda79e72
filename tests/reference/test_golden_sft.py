"""The Sparse Fusion Transformer against what the authors' code computed.

| file | what it checks |
| --- | --- |
| `sft_{poolk,ks,kspad}_{max,avg,attn,topk,attn_topk,attn_wkmedoids}` | all intermediate tensors, \
logits and loss, and the positions that `attn_topk` and `attn_wkmedoids` select |
| those of `poolk` and `ks` | the gradient of every parameter too |
| `VARIANT_masked_sft_poolk_{max,attn_topk}` | the same with the block-sparse pattern in the \
attention before pooling, which the authors' code sets up and never applies |
| `sft_fusionlayer_{max,topk}` | the same with `reference_fusion_layer`, no gradients |
| `sft_poolk_max` and the variant of it | the weights of that attention, mean over the heads |
| `pools` | each pool alone, on two shapes and three k; `attn_wkmedoids` after 0, 1 and 2 \
iterations too |

The authors' `topk` is our `channel_topk`. Their random pools draw from torch's generator, and so
have no arrays.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from sparing import PRECISIONS, files

from sft_jax import BlockSparsePattern, ReferenceWindows, Tokens
from sft_jax.modules.reducer import Reducer
from sft_jax.ops.attention.block_sparse import BlockSparseWeights, to_dense
from sft_jax.ops.attention.plain import saliency
from sft_jax.ops.pool import Pool
from sft_jax.ops.pool.cluster import weighted_k_medoids

POOLS = ("max", "avg", "attn", "topk", "attn_topk", "attn_wkmedoids")
TYPES = {"f32": (np.float32, 1e-5), "f64": (np.float64, 1e-10)}
FILES = reference.names("sft_*", "VARIANT_masked_sft_*")


def model_of(name, config):
    pattern = BlockSparsePattern() if name.startswith("VARIANT_masked") else None
    return reference.sft_model(config).clone(pre_pooling_pattern=pattern)


@functools.cache
def _load(name):
    """Our model, its parameters and inputs, and all else that a file holds."""
    arrays, config = reference.load(name)
    model = model_of(name, config)
    params = reference.parameters(reference.under(arrays, "param/"), model)
    inputs = {modality: arrays[f"in/{modality}"] for modality in reference.MODALITIES}
    return model, (params, inputs), arrays


def ours_under_their_names(intermediates):
    """Tensors of our model, under the names and in the layout of the golden arrays."""

    def sequence_first(name):
        return intermediates[name]["__call__"][0].values.swapaxes(0, 1)

    tensors = {
        "logits": intermediates["__call__"][0],
        "cls_final": intermediates["cls"][0],
        "fused_input": intermediates["fused_input"][0].values.swapaxes(0, 1),
    }
    for name in intermediates:
        match name.split("_"):
            case ["tokenizer", modality]:
                tensors[f"tokens/{modality}"] = sequence_first(name)
            case ["unimodal", modality, i]:
                tensors[f"unimodal{i}/{modality}"] = sequence_first(name)
            case ["fused", "last"]:
                before = intermediates.get("fused", {"__call__": [Tokens((), ())]})["__call__"][0]
                tensors |= {
                    f"fused{i}": block.swapaxes(0, 1) for i, block in enumerate(before.values)
                }
                tensors[f"fused{len(before.values)}"] = sequence_first(name)
            case ["pooled", "again", modality]:
                again = intermediates[name][0].values
                tensors[f"fusion_pooled_bdk/{modality}"] = again.swapaxes(1, 2)
            case ["pooling", modality]:
                pooling = intermediates[name]
                weights = pooling["attention"]["weights"][0]
                if isinstance(weights, BlockSparseWeights):
                    weights = to_dense(weights)
                tensors[f"sparse_attn_weights/{modality}"] = weights.mean(axis=1)
                tensors[f"sparse/{modality}"] = pooling["attended"][0].swapaxes(0, 1)
                tensors[f"saliency/{modality}"] = pooling["saliency"][0]
                _, pooled = pooling["__call__"][0]
                tensors[f"pooled_bdk/{modality}"] = pooled.values.swapaxes(1, 2)
                tensors[f"pool_idx/{modality}"] = pooling["reducer"].get("index", [None])[0]
    return tensors


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", files(FILES))
def test_golden_model(name, precision):
    _check(name, precision)


def test_golden_model_in_float32():
    _check("sft_kspad_attn_topk", "f32")


def _check(name, precision):
    model, arguments, arrays = _load(name)
    dtype, tolerance = TYPES[precision]
    params, inputs = jax.tree.map(lambda a: a.astype(dtype), arguments)
    loss_gradient = reference.under(arrays, "grad/")  # Not in every file.
    gradient = precision == "f64" and bool(loss_gradient)
    with jax.enable_x64(precision == "f64"):
        loss_of = reference.cross_entropy(arrays["in/labels"])
        intermediates, loss, found_gradient = reference.run(
            model, params, inputs, loss_of, gradient=gradient
        )
        tensors = ours_under_their_names(intermediates) | {"ce_loss": loss}
    expected = reference.under(arrays, f"{precision}/")
    assert len(expected) >= 10
    reference.assert_equal(tensors, expected, tolerance)
    if gradient:
        expected = reference.parameters(loss_gradient, model, np.float32)
        chex.assert_trees_all_close(found_gradient, expected, rtol=1e-5, atol=1e-8)


def _our_pool(name):
    """Name of our pool, or the k-medoids of as many iterations as the name says."""
    name, _, iterations = name.partition("_iters")
    if not iterations:
        return reference.pool(name)

    def medoids(tokens, k, saliency):
        return weighted_k_medoids(tokens, saliency, k, iterations=int(iterations))

    return Pool(medoids, ("saliency",))


@pytest.mark.parametrize("pool", [*POOLS, *(f"attn_wkmedoids_iters{i}" for i in range(3))])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", ["a", "b"])
def test_golden_pool_alone(case, pool, precision):
    arrays, _ = reference.load("pools")
    values, weights = arrays[f"{case}/x"].swapaxes(1, 2), arrays[f"{case}/w"]
    dtype, tolerance = TYPES[precision]
    batch, length = values.shape[:2]
    # The file holds weights without CLS: give them a CLS that attends to nothing.
    with_cls = np.pad(weights, ((0, 0), (1, 0), (1, 0)))[:, None]

    @jax.jit
    def pooled_by_k(values, with_cls):
        received = saliency(with_cls, jnp.ones((batch, length + 1), bool))
        tokens = Tokens(values, jnp.ones((batch, length), bool))
        pooled = {}
        for k in (1, 3, 5):
            kernel, padding = (int(i) for i in arrays[f"{case}/k{k}/kernel_pad"])
            windows = ReferenceWindows(kernel, kernel, padding)
            assert ReferenceWindows.from_k(length, k) == windows
            reducer = Reducer(_our_pool(pool), k, reference_windows=windows)
            pooled[f"{case}/k{k}/{pool}"] = reducer.apply({}, tokens, received).values
        return pooled

    with jax.enable_x64(precision == "f64"):
        pooled = pooled_by_k(values.astype(dtype), with_cls.astype(dtype))
    assert len(pooled) == 3
    for key, values in pooled.items():
        np.testing.assert_allclose(
            values.swapaxes(1, 2), arrays[key], rtol=tolerance, atol=tolerance, err_msg=key
        )
