"""Export of every model, pool and kernel, for a batch of any size and for several platforms."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import tiny_sft
from jax import export
from sparing import slow_but

from sft_jax import ModalitySpec, Tokens, WindowPattern
from sft_jax.config import ModelConfig
from sft_jax.modules.factory import build_model
from sft_jax.modules.reducer import Reducer
from sft_jax.ops.attention.cudnn import cudnn_attention
from sft_jax.ops.attention.kernels import KERNELS
from sft_jax.ops.attention.tiled import tiled_attention
from sft_jax.ops.attention.windowed import windowed_attention
from sft_jax.structs import Readout

pytestmark = pytest.mark.process

PLATFORMS = ("cpu", "cuda", "tpu")
# More tokens than attention stores weights for, and an image.
MODALITIES = {"sound": ModalitySpec(140, 2), "sight": ModalitySpec((6, 6), 1, 2)}
SMALL = {"width": 8, "num_heads": 2, "n_pre": 1, "n_post": 1, "k": 3}

CASES = {
    **{f"pool {pool}": {"pool": pool} for pool in ("attn_topk", "evit")},
    **{f"readout {readout}": {"readout": readout} for readout in get_args(Readout)[1:]},
    **{name: {"name": name} for name in ("late", "concat", "mbt", "mult")},
    "learned saliency": {"saliency": "learned"},
    "unimodal": {"name": "unimodal", "modality": "sound"},
    **{
        f"kernel {kernel}": {"attention_kernel": kernel, "dtype": "bfloat16"}
        for kernel in ("auto", *KERNELS)
    },
    **{
        pattern: {"unimodal_attention": pattern, "pre_pooling_attention": pattern}
        for pattern in ("windowed", "block_sparse")
    },
}


@pytest.fixture(autouse=True)
def _strict_ranks_of_unknown_sizes():
    """Ranks are not promoted, as a project may demand; shape checks know no symbolic sizes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    with jax.numpy_rank_promotion("raise"):
        yield
    jaxtyping.config.update("jaxtyping_disable", False)


@functools.cache
def _parts(case):
    model = build_model(ModelConfig(**SMALL | CASES[case]), MODALITIES, 4)
    variables = tiny_sft.normal_variables(model, model.example_inputs())
    return model, variables


def _batch(size, dtype=np.float32):
    inputs = {
        name: jax.ShapeDtypeStruct((size, *spec.shape), dtype) for name, spec in MODALITIES.items()
    }
    masks = {name: jax.ShapeDtypeStruct(a.shape[:-1], bool) for name, a in inputs.items()}
    return inputs, masks


@functools.cache
def _exported(case, *platforms, size="b"):
    model, variables = _parts(case)
    (size,) = export.symbolic_shape(size) if isinstance(size, str) else (size,)
    run = export.export(jax.jit(model.apply), platforms=platforms, disabled_checks=CUDNN)
    return run(variables, *_batch(size))


# JAX does not vouch that these stay as they are.
CUDNN = [
    export.DisabledSafetyCheck.custom_call(f"__cudnn$fmha{kind}{direction}")
    for kind in ("Softmax", "ScaleBiasSoftmax")
    for direction in ("", "Backward")
]


@pytest.mark.parametrize("case", CASES)
def test_any_batch_on_every_platform(case):
    assert str(_exported(case, *PLATFORMS).out_avals[0].shape) == "(b, 4)"


@pytest.mark.parametrize("pool", tiny_sft.SINGLE_POOLS)
def test_every_pool_takes_any_batch_on_every_platform(pool):
    reducer = Reducer(pool, k=3, num_heads=2)

    def shapes(size):
        values = jax.ShapeDtypeStruct((size, 12, 8), np.float32)
        mask = jax.ShapeDtypeStruct((size, 12), bool)
        return values, mask, jax.ShapeDtypeStruct((size, 12), np.float32)

    def pooled(values, mask, saliency):
        return reducer.apply(variables, Tokens(values, mask), saliency).values

    values, mask, saliency = shapes(2)
    variables = tiny_sft.normal_variables(reducer, Tokens(values, mask), saliency)
    (size,) = export.symbolic_shape("b")
    exported = export.export(jax.jit(pooled), platforms=PLATFORMS)(*shapes(size))
    kept = 12 if pool == "none" else 3
    assert str(exported.out_avals[0].shape) == f"(b, {kept}, 8)"


@pytest.mark.parametrize(
    ("case", "sizes"),
    slow_but(
        [("pool attn_topk", (1, 3)), ("pool evit", (3,)), ("mbt", (3,)), ("windowed", (3,))],
        ("pool attn_topk", (1, 3)),
        ("windowed", (3,)),
    ),
)
def test_what_is_exported_computes_what_the_model_does(case, sizes):
    model, variables = _parts(case)
    exported = _exported(case, *PLATFORMS)
    for size in sizes:
        random = np.random.default_rng(size)
        inputs, masks = _batch(size)
        inputs = {n: random.normal(size=a.shape).astype(a.dtype) for n, a in inputs.items()}
        masks = {n: random.random(a.shape) < 0.7 for n, a in masks.items()}
        expected = jax.jit(model.apply)(variables, inputs, masks)
        logits = exported.call(variables, inputs, masks)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def _loops(exported):
    return exported.mlir_module().count("stablehlo.while")


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_an_accelerator_gets_no_loop_over_heads(platform):
    """With 140 tokens a tile of queries holds all of them: no loop is left."""
    plain = build_model(ModelConfig(**SMALL | {"attention_kernel": "plain"}), MODALITIES, 4)
    variables = _parts("pool attn_topk")[1]
    exported = export.export(jax.jit(plain.apply), platforms=[platform])(variables, *_batch(2))
    assert _loops(_exported("pool attn_topk", platform)) <= _loops(exported)
    assert _loops(_exported("pool attn_topk", "cpu")) > _loops(exported)


@pytest.mark.parametrize("kernel", ["auto", "cudnn"])
def test_cudnn_is_called_on_nvidia_gpus_in_16_bits_alone(kernel):
    case = f"kernel {kernel}"
    assert "__cudnn$fmha" in _exported(case, *PLATFORMS, size=2).mlir_module()
    assert "__cudnn$fmha" not in _exported(case, "cpu", "tpu", size=2).mlir_module()
    # Its programs hold the size of the batch.
    assert "__cudnn$fmha" not in _exported(case, *PLATFORMS).mlir_module()
    assert "__cudnn$fmha" not in _exported("pool attn_topk", "cuda", size=2).mlir_module()


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(39, 39), (1, 21), (40, 39)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_cudnn_and_its_gradient_lower_without_a_gpu(dtype, queries, keys, sized):
    heads = [jax.ShapeDtypeStruct((2, n, 5, 8), dtype) for n in (queries, keys, keys)]
    mask = jax.ShapeDtypeStruct((2, keys), bool)
    sizes = [jax.ShapeDtypeStruct((2, keys), np.float32)] if sized else []

    def total(*arrays):
        return cudnn_attention(*arrays).astype(jnp.float32).sum()

    for function, directions in ((total, 1), (jax.grad(total, (0, 1, 2)), 2), (jax.vmap(total), 1)):
        arrays = (*heads, mask, *sizes)
        if directions == 1 and function is not total:
            arrays = [jax.ShapeDtypeStruct((3, *a.shape), a.dtype) for a in arrays]
        exported = export.export(jax.jit(function), platforms=["cuda"], disabled_checks=CUDNN)
        assert exported(*arrays).mlir_module().count("custom_call @__cudnn$fmha") == directions


def test_inputs_that_cudnn_cannot_take_are_named():
    heads = jnp.zeros((2, 39, 5, 8))
    mask = jnp.ones((2, 39), bool)
    with pytest.raises(
        ValueError, match=r"bfloat16 or float16 and heads of at most 127 .* float32"
    ):
        cudnn_attention(heads, heads, heads, mask)
    wide = jnp.zeros((2, 39, 1, 128), jnp.bfloat16)
    with pytest.raises(ValueError, match=r"at most 127 features, got bfloat16 and 128"):
        cudnn_attention(wide, wide, wide, mask)


@pytest.mark.parametrize("jit", [False, True])
def test_forward_mode_names_the_kernel_that_has_it(jit):
    heads, mask = jnp.ones((1, 5, 1, 2)), jnp.ones((1, 5), bool)

    def tangent(query):
        attend = lambda query: tiled_attention(query, heads, heads, mask)  # noqa: E731
        return jax.jvp(attend, (query,), (query,))[1]

    with pytest.raises(NotImplementedError, match="attention_kernel='plain'"):
        (jax.jit(tangent) if jit else tangent)(heads)
    # With a pattern it is there.
    attend = lambda query: windowed_attention(query, heads, heads, mask, WindowPattern(2, 1, 1))  # noqa: E731
    tangents = jax.jvp(attend, (heads,), (heads,))[1]
    assert all(np.isfinite(tangent).all() for tangent in tangents)
