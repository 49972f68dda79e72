"""Attention kernels in 16 bits against the plain kernel in float32.

Lengths are odd, keys are masked, one example has no real key, and half of the cases have sizes of
merged tokens. The inputs are rounded to 16 bits on both sides.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator_sections import reporting
from sft_jax.ops.attention import cudnn, plain, tiled

TOLERANCE = {"bfloat16": 2e-2, "float16": 4e-3}
"""Largest difference, as a share of the largest number compared."""

_HEADS = (5, 8)


def compare(request: dict[str, Any]) -> None:
    """Compares attended values and gradients.

    Args:
      request: `batch` size; `shapes`, pairs of numbers of queries and keys; names of `kernels`.
    """
    kernels = {
        "tiled": tiled.tiled_attention,
        "flash": functools.partial(tiled.tiled_attention, chip=True),
        "cudnn": cudnn.cudnn_attention,
    }
    for kernel in request["kernels"]:
        for dtype, tolerance in TOLERANCE.items():
            for shape in request["shapes"]:
                for sized in (False, True):
                    name = f"{kernel}, {dtype}, {shape[0]} x {shape[1]}, sizes {sized}"
                    with reporting.row(name):
                        arrays = _inputs(request["batch"], *shape, dtype, sized=sized)
                        shares = _shares(kernels[kernel], *arrays)
                        equal = max(shares.values()) <= tolerance
                        reporting.emit(name, equal=bool(equal), tolerance=tolerance, **shares)


def _inputs(batch: int, queries: int, keys: int, dtype: str, *, sized: bool) -> tuple[Any, ...]:
    random = np.random.default_rng(keys)
    heads = [random.normal(size=(batch, n, *_HEADS)) for n in (queries, keys, keys, queries)]
    mask = random.random((batch, keys)) < 0.7
    mask[:, 0], mask[-1] = True, False
    sizes = random.integers(1, 50, mask.shape).astype(np.float32) if sized else None
    *inputs, cotangent = (jnp.asarray(array, dtype) for array in heads)
    return inputs, jnp.asarray(mask), sizes, cotangent


def _shares(
    kernel: Callable[..., Any], inputs: Any, mask: Any, sizes: Any, cotangent: Any
) -> dict[str, float]:
    """Largest difference as a share of the largest number, for values and each gradient."""

    def exact(*arrays: Any) -> Any:
        return plain.apply_weights(plain.attention_weights(*arrays[:2], mask, sizes), arrays[2])

    def by_kernel(*arrays: Any) -> Any:
        return kernel(*arrays, mask, sizes)

    @jax.jit
    def both(inputs: Any, cotangent: Any) -> Any:
        results = []
        for attend, dtype in ((exact, jnp.float32), (by_kernel, cotangent.dtype)):
            attended, pull = jax.vjp(attend, *(array.astype(dtype) for array in inputs))
            results.append((attended, *pull(cotangent.astype(dtype))))
        return results

    with jax.default_matmul_precision("highest"):
        expected, actual = jax.device_get(both(inputs, cotangent))
    shares = {}
    names = ("attended", "d_query", "d_key", "d_value")
    for name, a, b in zip(names, expected, actual, strict=True):
        difference = np.abs(a - b.astype(np.float32)).max()
        shares[name] = float(difference / max(np.abs(a).max(), 1e-9))
    return shares


if __name__ == "__main__":
    reporting.run(compare)
