"""The fused blocks as a loop, and the last of them for what is read out alone."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sft

from sft_jax.modules import sft
from sft_jax.modules.sft import READOUTS, SparseFusionTransformer
from sft_jax.ops.mixup import Mixup

N_POST = 3


def _mixup(layer):
    share = jnp.asarray([0.7, 0.2, 1.0], jnp.float32)
    return Mixup(jnp.asarray([2, 0, 1]), {"sight": share, "sound": share}, jnp.asarray(layer))


# A pool whose tokens have sizes is among them; a loop of one block says as much as a longer one.
CASES = {readout: {"readout": readout, "n_post": 2} for readout in READOUTS}
CASES["sum_cls"] |= {"pool": "tome", "n_post": N_POST}


def _compiled(readout, **keywords):
    """Mixup to logits and, for one of the readouts, the gradient of all parameters."""
    model = tiny_sft.sft(n_pre=0, **CASES[readout])
    variables = tiny_sft.normal_variables(model, model.example_inputs())

    def total(variables, mixup):
        outputs = model.apply(
            variables, tiny_sft.inputs(), tiny_sft.masks(), mixup=mixup, **keywords
        )
        logits = outputs[0] if keywords else outputs
        return (logits * jnp.cos(jnp.arange(logits.size).reshape(logits.shape))).sum(), logits

    step = jax.value_and_grad(total, has_aux=True) if readout == "sum_cls" else total
    return functools.partial(jax.jit(step), variables)


@pytest.mark.parametrize("readout", READOUTS)
def test_a_loop_and_a_partial_last_block_change_nothing(readout, monkeypatch):
    monkeypatch.setattr(sft, "_MIN_BLOCKS_TO_SCAN", 1)
    loop = _compiled(readout)
    # Whoever looks at the intermediates has the last block computed whole.
    whole = _compiled(readout, mutable=["intermediates"])
    for layer in range(-1, CASES[readout]["n_post"]):
        chex.assert_trees_all_close(loop(_mixup(layer)), whole(_mixup(layer)), rtol=1e-4, atol=1e-5)


def test_few_blocks_are_no_loop_and_give_the_same(monkeypatch):
    model = tiny_sft.sft(n_pre=0, n_post=N_POST)
    variables = tiny_sft.variables(model)

    def run():
        return model.apply(variables, tiny_sft.inputs(), tiny_sft.masks())

    programs, logits = [], []
    for least in (1, N_POST):
        monkeypatch.setattr(sft, "_MIN_BLOCKS_TO_SCAN", least)
        lowered = jax.jit(lambda: run()).lower()
        programs.append(lowered.as_text())
        logits.append(lowered.compile()())
    assert ["stablehlo.while" in program for program in programs] == [True, False]
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", ["attn", "tome", "evit", "none"])
def test_a_loop_keeps_low_precision(pool, monkeypatch):
    monkeypatch.setattr(sft, "_MIN_BLOCKS_TO_SCAN", 1)
    model = tiny_sft.sft(pool=pool, n_pre=0, n_post=N_POST, dtype=jnp.bfloat16)
    apply = functools.partial(model.apply, tiny_sft.variables(model), tiny_sft.inputs())
    assert jax.eval_shape(apply, mixup=_mixup(0)).dtype == jnp.float32


class _WithoutHead(SparseFusionTransformer):
    """Returns the token that would be classified."""

    def make_head(self):
        return lambda token: token


def test_dropout_differs_by_block_of_the_loop(monkeypatch):
    monkeypatch.setattr(sft, "_MIN_BLOCKS_TO_SCAN", 1)
    whole = tiny_sft.sft(n_pre=0, n_post=N_POST, dropout=0.5)
    attributes = {name: getattr(whole, name) for name in ("num_classes", "modalities", "n_pre")}
    model = _WithoutHead(**attributes, width=8, num_heads=2, n_post=N_POST, dropout=0.5)
    # Each of the blocks of the loop adds 1, dropped or doubled, and the last nothing.
    params = jax.tree.map(np.zeros_like, tiny_sft.variables(whole))
    params["params"]["fused"]["attention"]["out"]["bias"] += 1
    keys = {"dropout": jax.random.key(0, impl="rbg")}
    added = jax.jit(lambda: model.apply(params, tiny_sft.inputs(), train=True, rngs=keys))()
    assert set(np.unique(added)) == {0, 2, 4}
