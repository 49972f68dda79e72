"""Dense layers, mixup and the optimiser, as operations of the roofline."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.accelerator_sections import synthetic
from benchmarks.accelerator_sections.work import Work
from sft_jax.ops import mixup
from sft_jax.structs import Tokens

_WIDTH = 40


def others(size: int, tokens: int) -> dict[str, Work]:
    """Makes dense layers of a block, mixup and the optimiser, at the sizes of VGGSound.

    Args:
      size: Batch size.
      tokens: Length of the sequence before fusion.
    """
    works = {}
    for dtype in (jnp.bfloat16, jnp.float32):
        for block, length in (("a fused block", 23), ("a block before fusion", tokens)):
            label = f"dense layers of {block}, {jnp.dtype(dtype)}, batch {size}"
            for backward in (False, True):
                direction = "forward and backward" if backward else "forward"
                works[f"{label}, {direction}"] = dense(size * length, dtype, backward=backward)
    works[f"mixup of {tokens} tokens, float32, batch {size}"] = _mixup(size, tokens)
    works["clipping and optimiser, float32"] = _optimizer()
    return works


def dense(rows: int, dtype: Any, *, backward: bool) -> Work:
    """Makes the four dense layers of a block, with ReLU and residual connections.

    Args:
      rows: Number of tokens in the batch.
      dtype: Type of tokens and parameters.
      backward: Adds the gradients of tokens and parameters.
    """
    sizes = ((_WIDTH, 3 * _WIDTH), *[(_WIDTH, _WIDTH)] * 3)
    keys = jax.random.split(jax.random.key(0), len(sizes) + 1)
    kernels = [
        (jax.random.normal(k, size) * size[0] ** -0.5).astype(dtype)
        for k, size in zip(keys, sizes, strict=False)
    ]
    values = jax.random.normal(keys[-1], (rows, _WIDTH)).astype(dtype)

    def layers(values: Any, kernels: Any) -> Any:
        qkv, out, mlp_in, mlp_out = kernels
        query, key, value = jnp.split(values @ qkv, 3, axis=-1)
        values += ((query + key + value) / 3) @ out
        return (values + jax.nn.relu(values @ mlp_in) @ mlp_out) / 2

    def forward(inputs: Any) -> Any:
        values, kernels = inputs
        return layers(values, kernels), kernels

    def loss(values: Any, kernels: Any) -> Any:
        # Squared: the gradient needs the output, as in a network.
        return jnp.square(layers(values, kernels)).sum(dtype=jnp.float32)

    def both(inputs: Any) -> Any:
        gradients = jax.grad(loss, argnums=(0, 1))(*inputs)
        return jax.tree.map(lambda a, g: a + (1e-6 * g).astype(a.dtype), inputs, gradients)

    weights = sum(a * b for a, b in sizes)
    flops = 2 * rows * weights * (3 if backward else 1)
    item = jnp.dtype(dtype).itemsize
    num_bytes = (2 * rows * _WIDTH + weights) * item * (2 if backward else 1)
    return Work(both if backward else forward, (values, kernels), flops, 0, num_bytes)


def _mixup(size: int, tokens: int) -> Work:
    keys = jax.random.split(jax.random.key(0), 2)
    values = jax.random.normal(keys[0], (size, tokens, _WIDTH))
    mask = jnp.ones((size, tokens), bool)
    drawn = mixup.draw_mixup(keys[1], size, ["flow"], alpha=0.3, layers=(0, 1), joint_from=0)

    def step(values: Any) -> Any:
        return drawn.fused(0, Tokens(values, mask)).values

    return Work(step, values, 0, 0, 2 * values.nbytes)


def _optimizer() -> Work:
    config = synthetic.load_config("vggsound", None, {})
    assembled = synthetic.assemble(config, synthetic.one_device_mesh())
    state = synthetic.state(assembled)
    gradient = jax.tree.map(lambda a: a + 1e-3, state.params)

    def step(inputs: Any) -> Any:
        params, opt_state = inputs
        updates, opt_state = assembled.optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    # The gradient is read for its norm and for the update. Parameters and two moments are read
    # and written.
    size = sum(array.nbytes for array in jax.tree.leaves(state.params))
    return Work(step, (state.params, state.opt_state), 0, 0, 8 * size)
