"""The heaviest operations of the models against the best that the device can do.

The time at best is the longest of matrix products, exponentials and bytes, each over the rate that
this device was measured to reach. Every operation is repeated within one program, on its own last
result, so that no launch by the host is in its time.
"""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator_sections import reporting
from benchmarks.accelerator_sections.attention_work import attention
from benchmarks.accelerator_sections.dense_work import others
from benchmarks.accelerator_sections.work import Work

_TIMES = 20


def measure(request: dict[str, Any]) -> None:
    """Measures the ceilings, then each operation beside them.

    Args:
      request: `tokens`, the length of a sequence; `dtypes`, `batch_sizes` and `kernels` of
        attention, None for all kernels; `dense_batch_sizes` of the rest; `megabytes` and
        `matmul`, sizes of the ceilings; `seconds` to repeat each for; `threads`, the number that
        compile.
    """
    ceilings: dict[str, float] = {}
    for name, work in _ceilings(request).items():
        with reporting.row(f"ceiling, {name}"):
            seconds = work.seconds(work.compile(_TIMES), _TIMES, request["seconds"])
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
    groups: list[Callable[[], dict[str, Work]]] = [
        functools.partial(attention, size, tokens, jnp.dtype(dtype), request["kernels"])
        for dtype in request["dtypes"]
        for size in request["batch_sizes"]
    ]
    groups += [functools.partial(others, size, tokens) for size in request["dense_batch_sizes"]]
    return groups


def _measure_group(
    group: dict[str, Work], ceilings: dict[str, float], request: dict[str, Any]
) -> None:
    """Compiles a group in parallel, then measures one operation after the other."""
    at_best = {name: _at_best(name, work, ceilings) for name, work in group.items()}
    times = {name: _times(max(seconds.values())) for name, seconds in at_best.items()}
    with concurrent.futures.ThreadPoolExecutor(request["threads"]) as pool:
        compiling = {name: pool.submit(work.compile, times[name]) for name, work in group.items()}
        concurrent.futures.wait(compiling.values())
    for name, work in group.items():
        with reporting.row(name):
            if compiling[name].exception():
                # Perhaps for lack of memory beside the others; alone, it may work.
                program = work.compile(times[name])
            else:
                program = compiling[name].result()
            seconds = work.seconds(program, times[name], request["seconds"])
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
    """Least seconds by each kind of bound."""
    # Products in float32 have JAX's default precision, as in the models.
    matmul = "matmul bfloat16" if "bfloat16" in name else "matmul float32"
    amounts = {matmul: work.flops, "exponentials": work.exponentials, "bytes": work.num_bytes}
    return {kind: amount / ceilings[kind] for kind, amount in amounts.items() if kind in ceilings}


def _times(at_best: float) -> int:
    """Number of repetitions in one program, so that its launch takes a small part of the time."""
    return int(np.clip(0.01 / max(at_best, 1e-9), 4, 100))


def _ceilings(request: dict[str, Any]) -> dict[str, Work]:
    size, key = request["matmul"], jax.random.key(0)
    count = int(request["megabytes"] * 2**20) // 4
    works = {}
    for name, dtype, precision in (
        ("matmul bfloat16", jnp.bfloat16, None),
        ("matmul float32", jnp.float32, None),
        ("matmul float32 highest", jnp.float32, "highest"),
    ):
        # The product has the standard deviation of its factors.
        matrix = (jax.random.normal(key, (size, size)) * size**-0.5).astype(dtype)

        def product(inputs: Any, precision: str | None = precision) -> Any:
            left, right = inputs
            return jnp.matmul(left, right, precision=precision), right

        works[name] = Work(product, (matrix, matrix), 2 * size**3, 0, 0)
    numbers = jax.random.uniform(key, (count,))
    works["bytes"] = Work(lambda x: x * 0.999, numbers, 0, 0, 2 * numbers.nbytes)
    rounds = 64

    def exponentials(x: jax.Array) -> jax.Array:
        for _ in range(rounds):
            x = jnp.exp2(-x)
        return x

    works["exponentials"] = Work(exponentials, numbers, 0, rounds * count, 0)
    return works


if __name__ == "__main__":
    reporting.run(measure)
