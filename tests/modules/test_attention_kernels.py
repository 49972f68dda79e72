"""Every way of computing attention gives every model the same logits, and SFT the same gradients.

| file | what it checks, with blocked attention and the fused blocks as a loop |
| --- | --- |
| `sft_{poolk,ks,kspad}_{max,attn,attn_topk}` | the logits |
| `{latefuse,concat,unimodal_rgb,mbt}_poolk`, `MulT_2_2` | the logits |
| `sft_poolk_attn_topk` | the gradient of every parameter too |
"""

import functools

import chex
import jax
import numpy as np
import pytest
import reference
import reference_baselines
import tiny_baselines
import tiny_sft
from sparing import slow_but

from sft_jax.modules import sft
from sft_jax.ops.attention import kernels, tiles

MODELS = slow_but(("sft", *tiny_baselines.RIGHT), "sft")
POOLS = {"poolk": "attn_topk", "ks": "attn", "kspad": "max"}
FILES = ["sft_poolk_attn_topk"]
MORE = [
    "MulT_1_0",
    "MulT_2_2",
    *(f"sft_{case}_{pool}" for case in POOLS for pool in POOLS.values()),
    *(f"{model}_poolk" for model in ("mbt", "latefuse", "concat", "unimodal_rgb")),
]


@pytest.fixture
def _small_blocks(monkeypatch):
    """Several blocks for few queries, the last of them smaller."""
    monkeypatch.setattr(tiles, "_tile_size", lambda target, num_keys: 3)


def _tiny(name, kernel):
    if name == "sft":
        return tiny_sft.sft(attention_kernel=kernel)
    return tiny_baselines.make(name, attention_kernel=kernel)


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("name", MODELS)
def test_blocked_gives_what_plain_does(name):
    inputs, masks = tiny_sft.inputs(), tiny_sft.masks()
    cotangent = np.random.default_rng(1).normal(size=(tiny_sft.BATCH, 4)).astype(np.float32)
    model = _tiny(name, "tiled")
    plain = tiny_sft.compiled("attn_topk") if name == "sft" else tiny_baselines.compiled(name)
    variables = (tiny_sft if name == "sft" else tiny_baselines).variables(model)

    def total(variables, inputs):
        logits = model.apply(variables, inputs, masks)
        return (logits * cotangent).sum(), logits

    expected = plain(inputs, masks, cotangent)
    if name == "sft":
        step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
        (_, logits), gradients = step(variables, inputs)
        chex.assert_trees_all_close(gradients, expected[1], rtol=1e-4, atol=1e-5)
    else:
        _, logits = jax.jit(total)(variables, inputs)
    np.testing.assert_allclose(logits, expected[0], rtol=1e-4, atol=1e-5)


@functools.cache
def _program(name, kernel):
    model = _tiny(name, kernel)
    variables = tiny_sft.normal_variables(model, model.example_inputs())
    return str(jax.make_jaxpr(model.apply)(variables, tiny_sft.inputs()))


@pytest.mark.parametrize("name", ["sft", "crossmodal"])
def test_auto_is_plain_for_short_sequences_only(name, monkeypatch):
    assert _program(name, "auto") == _program(name, "plain") != _program(name, "tiled")
    _program.cache_clear()
    monkeypatch.setattr(kernels, "_MAX_PLAIN_SCORES", 0)
    assert _program(name, "auto") == _program(name, "tiled")
    _program.cache_clear()


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize(
    "name",
    [*FILES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE if name not in FILES)],
)
def test_golden_logits_of_tiled_attention(name, monkeypatch):
    monkeypatch.setattr(sft, "_MIN_BLOCKS_TO_SCAN", 1)
    arrays, config = reference.load(name)
    is_sft = name.startswith("sft")
    model = reference.sft_model(config) if is_sft else reference_baselines.model(config)
    params = reference.parameters(reference.under(arrays, "param/"), model)
    model = model.clone(attention_kernel="tiled")
    loss_of = reference.cross_entropy(arrays["in/labels"])
    gradient = name == "sft_poolk_attn_topk"

    def loss(params, inputs):
        # Without intermediates, for which all blocks would be computed one by one.
        logits = model.apply({"params": params}, inputs)
        return loss_of(logits), logits

    with jax.enable_x64(True):
        params, inputs = jax.tree.map(
            np.float64, (params, {m: arrays[f"in/{m}"] for m in reference.MODALITIES})
        )
        run = jax.jit(jax.value_and_grad(loss, has_aux=True) if gradient else loss)
        outputs, param_gradients = run(params, inputs)
    logits = outputs[1] if gradient else param_gradients
    np.testing.assert_allclose(logits, arrays["f64/logits"], rtol=1e-10, atol=1e-10)
    if gradient:
        expected = reference.parameters(reference.under(arrays, "grad/"), model, np.float32)
        param_gradients = jax.tree.map(np.float32, param_gradients)
        chex.assert_trees_all_close(param_gradients, expected, rtol=1e-5, atol=1e-8)
