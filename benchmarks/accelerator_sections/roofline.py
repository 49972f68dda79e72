"""The heaviest operations of the models against what the device could do at best.

Time at best is the longest of operations of matrix products, exponentials and bytes, each over
what this device was measured to do of it. Everything is repeated within one program, each time on
what the time before gave, so that no launch from the host is in it.
"""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.accelerator_sections import reporting, synthetic
from sft_jax.ops import mixup
from sft_jax.ops.attention import cudnn, tiled
from sft_jax.structs import Tokens

_HEADS, _FEATURES = 5, 8
_WIDTH = _HEADS * _FEATURES
_TIMES = 20


class Work(NamedTuple):
    """An operation and the least that it takes.

    Attributes:
      step: from its inputs to arrays of their shapes and types, which are its inputs next time.
      inputs: arrays.
      flops: of matrix products, counted by hand.
      exponentials: how many.
      num_bytes: that must be read and written at least.
    """

    step: Callable[..., Any]
    inputs: Any
    flops: float
    exponentials: float
    num_bytes: float


def measure(request: dict[str, Any]) -> None:
    """Measures the ceilings, then each operation beside them.

    Args:
      request: `tokens`; `dtypes`, `batch_sizes` and `kernels` of attention, None for all;
        `dense_batch_sizes` of the rest; `megabytes` and `matmul` size of the ceilings; `seconds`
        to repeat each for; `threads` that compile.
    """
    ceilings: dict[str, float] = {}
    for name, work in _ceilings(request).items():
        with reporting.row(f"ceiling, {name}"):
            seconds = _seconds(_compile(work, _TIMES), work, _TIMES, request["seconds"])
            amount = max(work.flops, work.exponentials, work.num_bytes)
            ceilings[name] = amount / seconds["median"]
            reporting.emit(
                f"ceiling, {name}", a_second=ceilings[name], amount=amount, seconds=seconds
            )
    for make in _groups(request):
        _measure_group(make(), ceilings, request)


def _groups(request: dict[str, Any]) -> list[Callable[[], dict[str, Work]]]:
    """Functions that make the operations, in groups that fit in memory together."""
    tokens = request["tokens"]
    made: list[Callable[[], dict[str, Work]]] = [
        functools.partial(_attention, size, tokens, jnp.dtype(dtype), request["kernels"])
        for dtype in request["dtypes"]
        for size in request["batch_sizes"]
    ]
    made += [functools.partial(_others, size, tokens) for size in request["dense_batch_sizes"]]
    return made


def _measure_group(
    group: dict[str, Work], ceilings: dict[str, float], request: dict[str, Any]
) -> None:
    """Compiles a group at a time, then times one after the other."""
    at_best = {name: _at_best(name, work, ceilings) for name, work in group.items()}
    times = {name: _times(max(seconds.values())) for name, seconds in at_best.items()}
    with concurrent.futures.ThreadPoolExecutor(request["threads"]) as pool:
        compiling = {name: pool.submit(_compile, work, times[name]) for name, work in group.items()}
        concurrent.futures.wait(compiling.values())
    for name, work in group.items():
        with reporting.row(name):
            if compiling[name].exception():
                # Perhaps for want of memory beside the others; alone, it may do.
                program = _compile(work, times[name])
            else:
                program = compiling[name].result()
            seconds = _seconds(program, work, times[name], request["seconds"])
            bound = max(at_best[name], key=lambda kind: at_best[name][kind])
            reporting.emit(
                name,
                seconds=seconds,
                flops=work.flops,
                exponentials=work.exponentials,
                least_bytes=work.num_bytes,
                bound_by=bound,
                seconds_at_best=at_best[name],
                share_of_roofline=at_best[name][bound] / seconds["median"],
            )


def _at_best(name: str, work: Work, ceilings: dict[str, float]) -> dict[str, float]:
    """Seconds by what bounds them."""
    # What is float32 is computed at JAX's default precision, as the models are.
    matmul = "matmul bfloat16" if "bfloat16" in name else "matmul float32"
    amounts = {matmul: work.flops, "exponentials": work.exponentials, "bytes": work.num_bytes}
    return {kind: amount / ceilings[kind] for kind, amount in amounts.items() if kind in ceilings}


def _times(at_best: float) -> int:
    """How often to do something in one program, so that a launch of it counts for little."""
    return int(np.clip(0.01 / max(at_best, 1e-9), 4, 100))


def _compile(work: Work, times: int) -> Any:
    """A program that does the work so many times; a GPU need not ask the host before each."""

    def many(inputs: Any) -> Any:
        return jax.lax.scan(lambda now, _: (work.step(now), None), inputs, length=times)[0]

    return jax.jit(many).lower(work.inputs).compile()


def _seconds(program: Any, work: Work, times: int, seconds: float) -> dict[str, Any]:
    """Seconds of one time."""
    jax.block_until_ready(program(work.inputs))
    took = reporting.repeat(lambda: program(work.inputs), seconds)
    return {**reporting.median_and_range([each / times for each in took]), "in_one_program": times}


def _ceilings(request: dict[str, Any]) -> dict[str, Work]:
    size, key = request["matmul"], jax.random.key(0)
    count = int(request["megabytes"] * 2**20) // 4
    made = {}
    for name, dtype, precision in (
        ("matmul bfloat16", jnp.bfloat16, None),
        ("matmul float32", jnp.float32, None),
        ("matmul float32 highest", jnp.float32, "highest"),
    ):
        # Of standard deviation such that the product keeps it.
        matrix = (jax.random.normal(key, (size, size)) * size**-0.5).astype(dtype)

        def product(inputs: Any, precision: str | None = precision) -> Any:
            left, right = inputs
            return jnp.matmul(left, right, precision=precision), right

        made[name] = Work(product, (matrix, matrix), 2 * size**3, 0, 0)
    numbers = jax.random.uniform(key, (count,))
    made["bytes"] = Work(lambda x: x * 0.999, numbers, 0, 0, 2 * numbers.nbytes)
    rounds = 64

    def exponentials(x: jax.Array) -> jax.Array:
        for _ in range(rounds):
            x = jnp.exp2(-x)
        return x

    made["exponentials"] = Work(exponentials, numbers, 0, rounds * count, 0)
    return made


def _attention(size: int, tokens: int, dtype: Any, names: list[str] | None) -> dict[str, Work]:
    """Attention over a whole sequence of CLS and tokens, by every kernel."""
    shape = (size, tokens, _HEADS, _FEATURES)
    keys = jax.random.split(jax.random.key(0), 3)
    query, key, value = (jax.random.normal(k, shape).astype(dtype) for k in keys)
    mask = jnp.ones((size, tokens), bool)
    pairs, numbers = size * _HEADS * tokens**2, query.size * query.dtype.itemsize
    kernels = _kernels(mask)
    kernels = {name: kernels[name] for name in names or kernels}
    if dtype != jnp.bfloat16 or jax.default_backend() != "gpu":
        kernels = {name: attend for name, attend in kernels.items() if "cudnn" not in name}
    made = {}
    for name, attend in kernels.items():
        label = f"attention, {dtype}, batch {size}, {name}"
        made[f"{label}, forward"] = Work(
            _forward(attend),
            (query, key, value),
            2 * 2 * pairs * _FEATURES,
            pairs,
            4 * numbers,
        )
        # Five products more in the backward pass, of which one computes the weights again. It
        # reads the sums and their gradient beside the inputs, and writes three gradients.
        made[f"{label}, forward and backward"] = Work(
            _backward(attend),
            (query, key, value),
            7 * 2 * pairs * _FEATURES,
            2 * pairs,
            12 * numbers,
        )
    return made


def _kernels(mask: jax.Array) -> dict[str, Callable[..., Any]]:
    """Name to a function of query, key and value to the sums, or to them and the saliency."""

    def plain(query: Any, key: Any, value: Any) -> Any:
        return plain.apply_weights(plain.attention_weights(query, key, mask), value)

    def plain_saliency(query: Any, key: Any, value: Any) -> Any:
        weights = plain.attention_weights(query, key, mask)
        return plain.apply_weights(weights, value), plain.saliency(weights, mask)

    def of_jax(query: Any, key: Any, value: Any) -> Any:
        return jax.nn.dot_product_attention(query, key, value, implementation="xla")

    def cudnn_of_jax(query: Any, key: Any, value: Any) -> Any:
        # cuDNN has no gradient for an odd length.
        length = query.shape[1]
        even = ((0, 0), (0, length % 2), (0, 0), (0, 0))
        lengths = jnp.full(len(query), length, jnp.int32)
        return jax.nn.dot_product_attention(
            *(jnp.pad(array, even) for array in (query, key, value)),
            query_seq_lengths=lengths,
            key_value_seq_lengths=lengths,
            implementation="cudnn",
        )[:, :length]

    return {
        "plain": plain,
        "blocked": lambda q, k, v: tiled.tiled_attention(q, k, v, mask),
        "cudnn": lambda q, k, v: cudnn.cudnn_attention(q, k, v, mask),
        "plain, with saliency": plain_saliency,
        "blocked, with saliency": lambda q, k, v: tiled.tiled_self_attention(q, k, v, mask),
        "jax.nn, xla": of_jax,
        "jax.nn, cudnn": cudnn_of_jax,
    }


def _forward(attend: Callable[..., Any]) -> Callable[..., Any]:
    def step(inputs: Any) -> Any:
        query, key, value = inputs
        attended, salient = _pair(attend(query, key, value))
        if salient is not None:
            # Used, or it would not be computed.
            attended += (1e-3 * salient.mean()).astype(attended.dtype)
        return attended, key, value

    return step


def _backward(attend: Callable[..., Any]) -> Callable[..., Any]:
    def loss(query: Any, key: Any, value: Any) -> Any:
        attended, salient = _pair(attend(query, key, value))
        # Squared, so that the gradient needs the sums as those of a network do.
        total = jnp.square(attended).sum(dtype=jnp.float32)
        return total if salient is None else total + jnp.square(salient).sum()

    def step(inputs: Any) -> Any:
        gradients = jax.grad(loss, argnums=(0, 1, 2))(*inputs)
        # Added, so that the numbers stay of their size; it reads and writes each once more.
        return tuple(
            array + (1e-3 * of_array).astype(array.dtype)
            for array, of_array in zip(inputs, gradients, strict=True)
        )

    return step


def _pair(attended: Any) -> tuple[Any, Any]:
    return attended if isinstance(attended, tuple) else (attended, None)


def _others(size: int, tokens: int) -> dict[str, Work]:
    """Dense layers of a block, the optimiser and mixup, at the sizes of VGGSound."""
    made = {}
    for dtype in (jnp.bfloat16, jnp.float32):
        for what, length in (("a fused block", 23), ("a block before fusion", tokens)):
            label = f"dense layers of {what}, {jnp.dtype(dtype)}, batch {size}"
            for backward in (False, True):
                direction = "forward and backward" if backward else "forward"
                made[f"{label}, {direction}"] = _dense(size * length, dtype, backward=backward)
    made[f"mixup of {tokens} tokens, float32, batch {size}"] = _mixup(size, tokens)
    made["clipping and optimiser, float32"] = _optimizer()
    return made


def _dense(rows: int, dtype: Any, *, backward: bool) -> Work:
    """The four dense layers of a block, ReLU between the last two, residual connections."""
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
        # Squared, so that the gradient needs the output as that of a network does.
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
    made = synthetic.assemble(config, synthetic.one_device_mesh())
    state = synthetic.state(made)
    gradient = jax.tree.map(lambda a: a + 1e-3, state.params)

    def step(inputs: Any) -> Any:
        params, opt_state = inputs
        updates, opt_state = made.optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    # The gradient is read for its norm and for the update; parameters and two moments are read
    # and written.
    size = sum(array.nbytes for array in jax.tree.leaves(state.params))
    return Work(step, (state.params, state.opt_state), 0, 0, 8 * size)


if __name__ == "__main__":
    reporting.run(measure)
