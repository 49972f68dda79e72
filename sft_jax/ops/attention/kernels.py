"""Attention kernels: functions that compute the same numbers at different costs.

| kernel | computation of attention |
| --- | --- |
| `auto` | `plain` for short sequences; for longer ones `cudnn` where it can, else `tiled` |
| `plain` | with the weights of all queries and keys in memory |
| `tiled` | one tile of queries at a time (`sft_jax.ops.attention.tiled`) |
| `flash` | as `tiled`; accelerators keep a tile on the chip (`sft_jax.ops.attention.on_chip`) |
| `cudnn` | NVIDIA's library on its GPUs, in 16 bits; otherwise, and with saliency, as `tiled` |

A kernel is called as `kernel(query, key, value, mask, sizes, with_saliency=...)`:

- `query` is `[b, q, h, e]`, `key` and `value` are `[b, n, h, e]`, for `h` heads of size `e`;
- `mask` is `[b, n]`, False for a key that gets no weight;
- `sizes` is `[b, n]`, the number of equal keys that each key counts as, or None for 1;
- `with_saliency` requests the saliency too. Then queries and keys are one sequence, CLS first.

It returns the weighted sums of the values, `[b, q, h, e]`, and the saliency of the tokens after
CLS, `[b, n - 1]`. The saliency is None unless it is requested.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, Bool, Float

from sft_jax import plugins
from sft_jax.ops.attention.cudnn import cudnn_attention, is_supported
from sft_jax.ops.attention.plain import apply_weights, attention_weights, saliency
from sft_jax.ops.attention.tiled import tiled_attention, tiled_self_attention

Kernel = Callable[..., tuple[Array, Array | None]]

AUTO = "auto"
FORMER_NAMES = {"blocked": "tiled"}
"""Names of kernels in earlier releases, which older configs contain."""

_MAX_PLAIN_SCORES = 128 * 128
"""Largest number of weights of a head for which storing them is cheaper than recomputing them."""


def plain(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    sizes: Array | None,
    *,
    with_saliency: bool,
) -> tuple[Array, Array | None]:
    """Computes attention with all weights in memory."""
    weights = attention_weights(query, key, mask, sizes)
    attended = apply_weights(weights, value)
    return attended, saliency(weights, mask) if with_saliency else None


def tiled(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    sizes: Array | None,
    *,
    with_saliency: bool,
    chip: bool = False,
) -> tuple[Array, Array | None]:
    """Computes attention for one tile of queries at a time, if asked on the accelerator's chip."""
    if with_saliency:
        return tiled_self_attention(query, key, value, mask, sizes, chip=chip)
    return tiled_attention(query, key, value, mask, sizes, chip=chip), None


flash = functools.partial(tiled, chip=True)


def cudnn(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    sizes: Array | None,
    *,
    with_saliency: bool,
) -> tuple[Array, Array | None]:
    """Computes attention by cuDNN, or by tiles where the saliency, which cuDNN lacks, is needed."""
    if with_saliency:
        return tiled(query, key, value, mask, sizes, with_saliency=True)
    return cudnn_attention(query, key, value, mask, sizes, elsewhere=tiled_attention), None


KERNELS: Mapping[str, Kernel] = {"plain": plain, "tiled": tiled, "flash": flash, "cudnn": cudnn}
"""Built-in kernels by their name in a config; `auto` chooses among them."""


def kernel_name(name: str, field: str = "attention_kernel") -> str:
    """Checks the name of a kernel, and replaces a former name.

    Args:
      name: `auto`, one of `KERNELS` or of `FORMER_NAMES`, or an import path.
      field: Name of the field that holds `name`, for the error message.

    Raises:
      ValueError: If `name` is neither a known name nor an import path.
    """
    name = FORMER_NAMES.get(name, name)
    if name != AUTO and name not in KERNELS and not plugins.is_import_path(name):
        raise ValueError(
            f"{field}={name!r} is not one of {', '.join((AUTO, *KERNELS))}, nor an import path"
            " such as 'my_package.my_module:my_kernel'"
        )
    return name


def choose_kernel(kernel: str | Kernel, query: Array, key: Array) -> Kernel:
    """Chooses the kernel for given queries and keys.

    Args:
      kernel: Name of a kernel (see `kernel_name`), or a kernel.
      query: `[b, q, h, e]` queries.
      key: `[b, n, h, e]` keys.

    Raises:
      ValueError: If the kernel is unknown.
    """
    if not isinstance(kernel, str):
        return kernel
    name = kernel_name(kernel)
    if name == AUTO:
        if query.shape[1] * key.shape[1] <= _MAX_PLAIN_SCORES:
            return plain
        return cudnn if is_supported(query.dtype, query.shape[-1]) else tiled
    if name in KERNELS:
        return KERNELS[name]
    loaded: Kernel = plugins.load(name, "attention_kernel")
    return loaded


def attend(
    kernel: str | Kernel,
    query: Float[Array, "b q h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h e"],
    mask: Bool[Array, "b n"],
    sizes: Float[Array, "b n"] | None = None,
    *,
    with_saliency: bool = False,
) -> tuple[Float[Array, "b q h e"], Float[Array, "b m"] | None]:
    """Computes attention by a kernel, and checks the shapes of the results.

    Args:
      kernel: Name of a kernel, or a kernel.
      query: Queries.
      key: Keys.
      value: Values.
      mask: False marks a key that gets no weight.
      sizes: Number of equal keys that each key counts as; None for 1.
      with_saliency: Whether to compute the saliency.

    Returns:
      The weighted sums of the values, and the saliency or None.

    Raises:
      ValueError: If the kernel is unknown, or its results have the wrong shapes.
    """
    function = choose_kernel(kernel, query, key)
    attended, salient = function(query, key, value, mask, sizes, with_saliency=with_saliency)
    _check_shape(kernel, "the weighted sums", attended, query.shape)
    if not with_saliency:
        return attended, None
    _check_shape(kernel, "the saliency", salient, (mask.shape[0], mask.shape[1] - 1))
    return attended, salient


def _check_shape(kernel: Any, name: str, array: Any, expected: tuple[Any, ...]) -> None:
    shape = getattr(array, "shape", None)
    if shape != expected:
        received = "None" if array is None else f"shape {shape}"
        raise ValueError(
            f"attention_kernel={kernel!r} must return {name} of shape {expected}, got {received}"
        )
