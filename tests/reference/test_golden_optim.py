"""Three clipped steps of AdamW against those of the authors' code.

| keys of `optim_AdamW_lr1e-3.npz` | what they check |
| --- | --- |
| `param/*`, `in/*` | what the steps start from |
| `f64/losses`, `f64/grad_norms_before_clip` | the loss and gradient before each step |
| `f64/param_after3/*` | every parameter after `make_optimizer`'s steps |

PyTorch divides the gradient by its norm plus 1e-6, and optax by its norm. Here this changes no
parameter by more than 6e-11: Adam all but undoes a constant factor.
"""

import functools

import chex
import jax
import numpy as np
import optax
import reference

from sft_jax.config import OptimConfig
from sft_jax.training import optim

CONFIG = OptimConfig(name="adamw", lr=1e-3, clip_norm=0.8, schedule="constant", warmup_epochs=0.0)


OPTIMIZER = optim.make_optimizer(CONFIG, optim.make_schedule(CONFIG, 1, 3))
UPDATE = jax.jit(OPTIMIZER.update)


@functools.cache
def _start():
    """Parameters, and the function that gives their loss and gradient."""
    arrays, config = reference.load("optim_AdamW_lr1e-3")
    model = reference.sft_model(config)
    params = reference.parameters(reference.under(arrays, "param/"), model)
    params, inputs = jax.tree.map(
        lambda a: a.astype(np.float64),
        (params, {m: arrays[f"in/{m}"] for m in reference.MODALITIES}),
    )

    def loss(params):
        logits = model.apply({"params": params}, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, arrays["in/labels"]).mean()

    return params, jax.jit(jax.value_and_grad(loss))


def _clip(gradients):
    """PyTorch's `clip_grad_norm_`."""
    factor = min(0.8 / (optax.tree.norm(gradients) + 1e-6), 1.0)
    return jax.tree.map(lambda gradient: factor * gradient, gradients)


def _take_steps(clip=lambda gradients: gradients):
    """Parameters after three steps; loss and norm of the gradient before each."""
    params, loss_and_gradient = _start()
    state, losses, norms = OPTIMIZER.init(params), [], []
    for _ in range(3):
        loss, gradients = loss_and_gradient(params)
        losses.append(loss)
        norms.append(optax.tree.norm(gradients))
        updates, state = UPDATE(clip(gradients), state, params)
        params = optax.apply_updates(params, updates)
    return params, losses, norms


def _expected():
    arrays, config = reference.load("optim_AdamW_lr1e-3")
    after = reference.parameters(
        reference.under(arrays, "f64/param_after3/"), reference.sft_model(config)
    )
    return after, arrays["f64/losses"], arrays["f64/grad_norms_before_clip"]


def test_golden_steps():
    with jax.enable_x64(True):
        steps, expected = _take_steps(), _expected()
    np.testing.assert_allclose(steps[1], expected[1], rtol=1e-10)
    # Of the third step: 1e-10 in the parameters is more in the gradient.
    np.testing.assert_allclose(steps[2], expected[2], rtol=1e-9)
    chex.assert_trees_all_close(steps[0], expected[0], rtol=0, atol=1e-10)


def test_golden_steps_without_the_epsilon_of_clipping():
    # Clipped by theirs, a gradient is too short for ours to clip: nothing but the epsilon is
    # behind the tolerances above.
    with jax.enable_x64(True):
        steps, expected = _take_steps(_clip), _expected()
    np.testing.assert_allclose(steps[1], expected[1], rtol=1e-14)
    np.testing.assert_allclose(steps[2], expected[2], rtol=1e-14)
    # The gradient of key biases is 0 apart from rounding, which Adam enlarges by lr / eps = 1e5.
    chex.assert_trees_all_close(steps[0], expected[0], rtol=0, atol=1e-11)
