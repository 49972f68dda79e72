"""Programs for one platform, such as kernels in its own language, within functions for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax._src import dispatch
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import PartitionSpec
from jaxtyping import Array

from sft_jax.structs import EXAMPLE_AXES

MESH_AXES = {"b": EXAMPLE_AXES, "h": ("model",)}
"""Axes of a mesh that examples and heads are divided over, by the letter of their axis."""

_program = Primitive("platform_program")
_program.multiple_results = True
# Work is divided over the devices, so lowering must know them.
dispatch.prim_requires_devices_during_lowering.add(_program)


def platform_program(
    function: Callable[..., Sequence[Array]],
    platform: str,
    arrays: Sequence[Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    axes: str = "",
) -> list[Array]:
    """Computes a function that is lowered for one platform alone.

    It belongs in a branch of `jax.lax.platform_dependent`. JAX lowers every branch for each of
    several platforms: on the others the results are zeros, which they do not use. It has no
    derivative. `jax.vmap` merges its axis with the first one of the arrays.

    Args:
      function: Function of the arrays, or of any part of the examples and heads. JAX caches
        programs by it, so it must be the same object, or an equal one, in each call.
      platform: Platform, "cuda" or "tpu".
      arrays: Arguments; the first axis of each is that of the examples.
      outputs: Shapes and dtypes of the results.
      axes: Axes of arguments and results by a letter each, as in "b h q, b n -> b h n". Devices
        divide those of `MESH_AXES`. Empty if the function itself divides its work.

    Raises:
      NotImplementedError: If it is lowered for another platform alone.
    """
    like = tuple((output.shape[1:], output.dtype) for output in outputs)
    # The function is traced when it is lowered, in what may be another context.
    settings: Any = jax.config
    precision = settings.jax_default_matmul_precision
    parameters: Any = {"function": function, "platform": platform, "like": like, "axes": axes}
    return _program.bind(*arrays, **parameters, precision=precision)


@_program.def_abstract_eval
def _(*avals: Any, like: Any, **_: Any) -> list[Any]:
    first = avals[0]
    return [first.update(shape=(first.shape[0], *rest), dtype=dtype) for rest, dtype in like]


def _lower(lowered_for: str | None, context: Any, *arrays: Any, **parameters: Any) -> Any:
    run, platform = parameters["function"], parameters["platform"]
    module = context.module_context
    if lowered_for == platform:
        mesh = getattr(module.axis_context, "abstract_mesh", None)
        if parameters["axes"] and mesh is not None and mesh.size > 1:
            run = _divided(run, parameters["axes"], mesh, context.avals_in)
    elif len(module.platforms) > 1:
        run = lambda *_: [jnp.zeros(aval.shape, aval.dtype) for aval in context.avals_out]  # noqa: E731
    else:
        raise NotImplementedError(f"this program is for {platform} alone")
    # Within `jax.shard_map` types say on which devices arrays differ. A kernel needs none of that.
    types = [ShapedArray(aval.shape, aval.dtype) for aval in context.avals_in]
    with jax.default_matmul_precision(parameters["precision"]):
        lower = mlir.lower_fun(run, multiple_results=True)
        return lower(context.replace(avals_in=types), *arrays)


def _divided(
    function: Callable[..., Sequence[Array]], axes: str, mesh: Any, arguments: Sequence[Any]
) -> Callable[..., Any]:
    """Divides examples and heads over the devices, as far as they divide evenly."""
    letters = [[part.split() for part in side.split(",")] for side in axes.split("->")]
    sizes = {
        letter: size
        for part, argument in zip(letters[0], arguments, strict=True)
        for letter, size in zip(part, argument.shape, strict=True)
    }
    over = {letter: _axes_of(names, mesh, sizes[letter]) for letter, names in MESH_AXES.items()}
    in_specs, out_specs = (
        tuple(PartitionSpec(*(over.get(letter) for letter in part)) for part in side)
        for side in letters
    )
    return jax.shard_map(
        lambda *arrays: tuple(function(*arrays)),
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        check_vma=False,
    )


def _axes_of(names: Sequence[str], mesh: Any, size: int) -> tuple[str, ...]:
    present = tuple(name for name in names if name in mesh.shape)
    parts = math.prod(mesh.shape[name] for name in present)
    return present if size % parts == 0 else ()


def _batch(
    arrays: Sequence[Array], batched: Sequence[int | None], **parameters: Any
) -> tuple[list[Array], list[int]]:
    """Merges the batch axis of `jax.vmap` with that of the examples."""
    size = next(a.shape[axis] for a, axis in zip(arrays, batched, strict=True) if axis is not None)
    every = (
        jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(arrays, batched, strict=True)
    )
    results = _program.bind(*(a.reshape(-1, *a.shape[2:]) for a in every), **parameters)
    return [a.reshape(size, -1, *a.shape[1:]) for a in results], [0] * len(results)


def _register(platform: str | None) -> None:
    def lower(context: Any, *arrays: Any, **parameters: Any) -> Any:
        return _lower(platform, context, *arrays, **parameters)

    mlir.register_lowering(_program, lower, platform=platform)


for _platform in ("cuda", "tpu", None):
    _register(_platform)
batching.primitive_batchers[_program] = _batch
