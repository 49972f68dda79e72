"""A tiny SFT of two modalities, with parameters and inputs that are made without compiling."""

import functools

import jax
import numpy as np

from sft_jax import ModalitySpec, SparseFusionTransformer
from sft_jax.ops import pool as pools

MODALITIES = {"sight": ModalitySpec(12, 3, patch_size=2), "sound": ModalitySpec(7, 2)}
POOLS = list(pools.POOLS)
SINGLE_POOLS = [name for name, pool in pools.POOLS.items() if not pool.joint]  # Of one modality.
LEARNED_POOLS = [name for name, pool in pools.POOLS.items() if pool.module]
SALIENT_POOLS = [name for name, pool in pools.POOLS.items() if "saliency" in pool.needs]
WINDOWED_POOLS = [name for name, pool in pools.POOLS.items() if "windows" in pool.needs]
K = 3
BATCH = 3


def sft(**attributes):
    defaults = {"num_classes": 4, "modalities": MODALITIES, "width": 8, "num_heads": 2, "k": K}
    return SparseFusionTransformer(**defaults | {"n_pre": 1, "n_post": 1} | attributes)


def with_pool(pool):
    """Model of a pool; one of them has blocks before pooling, where all pools are the same."""
    return sft(pool=pool, n_pre=1 if pool == "attn_topk" else 0)


def variables(model):
    """Parameters of `normal_variables`, made once for all models that have the same."""
    own = {"pool": model.pool, "k": model.k} if model.pool in LEARNED_POOLS else {}
    modalities = tuple(model.modalities.items())
    return _variables(modalities, model.num_classes, model.n_pre, model.n_post, tuple(own.items()))


@functools.cache
def _variables(modalities, num_classes, n_pre, n_post, own):
    attributes = {"num_classes": num_classes, "n_pre": n_pre, "n_post": n_post} | dict(own)
    model = sft(modalities=dict(modalities), **attributes)
    return normal_variables(model, model.example_inputs())


def normal_variables(module, *args):
    """Normal values for every parameter, biases too; `init` would take seconds to compile."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    random = np.random.default_rng(0)
    return jax.tree.map(lambda a: random.normal(size=a.shape).astype(a.dtype) * 0.5, shapes)


def inputs(seed=0, batch=BATCH, modalities=MODALITIES):
    random = np.random.default_rng(seed)
    return {
        name: random.normal(size=(batch, *spec.shape)).astype(np.float32)
        for name, spec in modalities.items()
    }


def masks():
    """All real; holes, one of them within a patch; one modality short, the other absent."""
    masks = {name: np.ones((BATCH, spec.length), bool) for name, spec in MODALITIES.items()}
    masks["sight"][1, [2, 5, 6, 7]] = False
    masks["sound"][1, [0, 3]] = False
    masks["sight"][2, 3:] = False
    masks["sound"][2] = False
    return masks


@functools.cache
def compiled(pool):
    """Compiles the forward pass and gradients once for all tests of a process.

    Returns:
      Function of inputs, masks and a cotangent `[b, c]`. It gives the logits, and the
      gradients of `sum(logits * cotangent)` in the parameters and the inputs.
    """
    model = with_pool(pool)

    def total(params, inputs, masks, cotangent):
        logits = model.apply(params, inputs, masks)
        return (logits * cotangent).sum(), logits

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))

    def run(inputs, masks, cotangent):
        (_, logits), gradients = step(variables(model), inputs, masks, cotangent)
        return jax.device_get((logits, gradients))

    return run
