"""Operations of a function, counted from its jaxpr.

XLA's own cost analysis counts the body of a loop only once. This module counts it once per
iteration.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn
from jax.interpreters import partial_eval

from sft_jax.modules.multimodal import MultimodalClassifier

STAGES = ("tokenizer", "unimodal", "pre_pooling", "pooling", "fused", "head", "other")
"""Parts of a model, from inputs to logits, and `other` for all other operations."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Number of operations, and size of the largest intermediate array.

    Attributes:
      matmul_flops: Operations of matrix products and convolutions. A multiply-add counts as two.
      elementwise_flops: Operations of all other arithmetic, also on integers and booleans: one
        for each element that an elementwise function returns. A reduction, cumulative sum or
        scatter counts one for each element that it combines. A sort or top-k of `n` elements
        counts `log2(n)` for each. Moving, copying and converting count nothing.
      largest_bytes: Size of the largest array that any operation returns. A compiler may
        fuse operations and never store this array.
    """

    matmul_flops: int = 0
    elementwise_flops: int = 0
    largest_bytes: int = 0

    @property
    def flops(self) -> int:
        """All operations."""
        return self.matmul_flops + self.elementwise_flops


def count(function: Callable[..., Any], *args: Any, platform: str = "cpu") -> Cost:
    """Counts the operations of `function(*args)` without running it.

    An operation counts only if an output depends on it. The body of a scan, or of a `fori_loop`
    with known bounds, counts once per iteration, and a conditional as its most expensive branch.
    If platforms have their own programs (`jax.lax.platform_dependent`), only `platform`'s counts.

    Args:
      function: Function that `jax.make_jaxpr` can trace.
      *args: Arrays, or `jax.ShapeDtypeStruct`s in their place.
      platform: Platform whose programs count: cpu, cuda, rocm or tpu.

    Raises:
      ValueError: For a `while_loop`, which may run any number of times.
      NotImplementedError: For a primitive of unknown cost; the message names it.
    """
    return total(by_stage(function, *args, platform=platform))


def by_stage(function: Callable[..., Any], *args: Any, platform: str = "cpu") -> dict[str, Cost]:
    """Counts the operations of `function(*args)` like `count`, but separately for each stage.

    The stage of an operation follows from the names of the modules (and `jax.named_scope`s)
    that it was traced in. The outermost name of this table decides:

    | stage | modules |
    | --- | --- |
    | tokenizer | `tokenizer_*` |
    | unimodal | `unimodal_*`, blocks of one modality before fusion |
    | pooling | `reducer` in `pooling_*`, and `joint_pooling` |
    | pre_pooling | the rest of `pooling_*`: self-attention and saliency |
    | fused | `fused*`: blocks of several modalities |
    | head | `head`, `readout` |
    | other | none of these |

    Args:
      function: Function that `jax.make_jaxpr` can trace.
      *args: Arrays, or `jax.ShapeDtypeStruct`s in their place.
      platform: Platform whose programs count, as in `count`.

    Returns:
      The cost of each of `STAGES`; their `total` is the return value of `count`.

    Raises:
      ValueError, NotImplementedError: See `count`.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return dict.fromkeys(STAGES, Cost()) | _jaxpr_cost(used, "", platform)


def total(costs: Mapping[str, Cost]) -> Cost:
    """Adds up the costs of all stages."""
    return _sum(costs.values())


def forward_cost(model: MultimodalClassifier, batch_size: int = 1) -> Cost:
    """Counts the cost of the logits of `batch_size` full-length examples, in evaluation."""
    return total(forward_stages(model, batch_size))


def forward_stages(model: MultimodalClassifier, batch_size: int = 1) -> dict[str, Cost]:
    """Counts the cost of the logits of `batch_size` full-length examples, for each of `STAGES`."""
    inputs = {
        name: jax.ShapeDtypeStruct((batch_size, *like.shape[1:]), like.dtype)
        for name, like in jax.eval_shape(model.example_inputs).items()
    }
    return by_stage(model.apply, _variables(model), inputs)


def num_parameters(model: MultimodalClassifier) -> int:
    """Counts the trainable parameters of a model."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameter_shapes(model)))


def parameter_shapes(model: MultimodalClassifier) -> Any:
    """Computes the shapes and dtypes of the trainable parameters of a model, by name."""
    return _variables(model)["params"]


def _variables(model: MultimodalClassifier) -> Any:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), model.example_inputs()))


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FREE = _names(
    """
    bitcast_convert_type broadcast_in_dim concatenate convert_element_type copy copy_p device_put
    dynamic_slice dynamic_update_slice empty empty2 expand_dims gather iota name
    optimization_barrier pad platform_index random_seed random_unwrap random_wrap
    reduce_precision reshape rev scatter sharding_constraint slice split squeeze stack
    stop_gradient transpose unstack
    """
)
_ELEMENTWISE = _names(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp cos cosh div eq erf
    erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p log2 logistic
    lt max min mul ne neg not one_minus_square or pow random_bits random_fold_in random_split rem
    round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt
    square sub tan tanh
    xor
    """
)
_REDUCING = _names(
    """
    argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce_and reduce_max reduce_min
    reduce_or reduce_prod reduce_sum reduce_xor
    """
)
_SCATTERING = _names("scatter_add scatter_max scatter_min scatter_mul scatter_sub")
_CALLS = {
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
}
"""Name of the parameter with the jaxpr, for each primitive that calls one."""


def _jaxpr_cost(jaxpr: Jaxpr, scope: str, platform: str) -> dict[str, Cost]:
    """Counts the cost of each stage in a jaxpr; `scope` holds the enclosing names."""
    return _merge(_equation_cost(equation, scope, platform) for equation in jaxpr.eqns)


def _equation_cost(equation: JaxprEqn, outer: str, platform: str) -> dict[str, Cost]:
    # The jaxpr of a call was traced separately, so its names continue those of the call.
    scope = f"{outer}/{equation.source_info.name_stack}"
    outputs: list[Any] = [variable.aval for variable in equation.outvars]
    largest = max((_size(aval) * aval.dtype.itemsize for aval in outputs), default=0)
    own = {_stage(scope): Cost(largest_bytes=largest)}
    inner = _call_cost(equation, scope, platform)
    return _merge([own, {_stage(scope): _operations(equation)} if inner is None else inner])


def _stage(scope: str) -> str:
    # Transformations enclose a name: transpose(jvp(Model))/fused_0.
    names = [name for name in re.split(r"[/()]", scope) if name]
    for i, name in enumerate(names):
        if name.startswith("pooling_"):
            return "pooling" if "reducer" in names[i + 1 : i + 2] else "pre_pooling"
        for start, stage in _STARTS.items():
            if name.startswith(start):
                return stage
        if name in ("head", "readout"):
            return "head"
    return "other"


_STARTS = {
    "joint_pooling": "pooling",
    "tokenizer_": "tokenizer",
    "unimodal_": "unimodal",
    "fused": "fused",
}


def _call_cost(equation: JaxprEqn, scope: str, platform: str) -> dict[str, Cost] | None:
    """Counts the cost of the jaxprs that an equation calls; None if it calls none."""
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        return _jaxpr_cost(_open(params[_CALLS[name]]), scope, platform)
    match name:
        case "scan":
            body = _jaxpr_cost(_open(params["jaxpr"]), scope, platform)
            return {stage: _repeat(cost, params["length"]) for stage, cost in body.items()}
        case "cond":
            branches = [
                _jaxpr_cost(_open(branch), scope, platform)
                for branch in _lowered(
                    params["branches"], params.get("branches_platforms"), platform
                )
            ]
            largest = max(total(branch).largest_bytes for branch in branches)
            dearest = max(branches, key=lambda branch: total(branch).flops)
            return _merge([dearest, {_stage(scope): Cost(largest_bytes=largest)}])
        case "while":
            raise ValueError(
                "a while_loop runs an unknown number of times, so its operations can't be"
                " counted: use scan, or fori_loop with bounds that are Python integers"
            )
    return None


def _lowered(branches: Sequence[Any], platforms: Any, platform: str) -> Sequence[Any]:
    """Selects the branches that can run on a platform."""
    if platforms is None:
        return branches
    own = [b for b, names in zip(branches, platforms, strict=True) if names and platform in names]
    return own or branches[-1:]


def _operations(equation: JaxprEqn) -> Cost:
    name, params = equation.primitive.name, equation.params
    inputs: list[Any] = [variable.aval for variable in equation.invars]
    if name in _FREE:
        return Cost()
    if name in _ELEMENTWISE:
        return Cost(elementwise_flops=_size(equation.outvars[0].aval))
    if name in _REDUCING:
        return Cost(elementwise_flops=_size(inputs[0]))
    if name.replace("-", "_") in _SCATTERING:
        return Cost(elementwise_flops=_size(inputs[2]))
    match name:
        case "sort" | "top_k":
            axis = params["dimension"] if name == "sort" else params.get("axis", -1)
            comparisons = math.ceil(math.log2(max(inputs[0].shape[axis], 1)))
            return Cost(elementwise_flops=_size(inputs[0]) * comparisons)
        case "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            length = math.prod(inputs[0].shape[axis] for axis in contracted)
            return Cost(matmul_flops=2 * _size(equation.outvars[0].aval) * length)
        case "cuda_program":
            # Attention by cuDNN has two products, and its gradients have five.
            products = 5 if len(inputs) > 3 else 2
            return Cost(matmul_flops=products * 2 * _size(inputs[0]) * inputs[1].shape[1])
        case "conv_general_dilated":
            features = inputs[1].shape[params["dimension_numbers"].rhs_spec[0]]
            length = _size(inputs[1]) // features
            return Cost(matmul_flops=2 * _size(equation.outvars[0].aval) * length)
    raise NotImplementedError(f"the cost of the primitive {name!r} is not known: {equation}")


def _merge(parts: Iterable[Mapping[str, Cost]]) -> dict[str, Cost]:
    merged: dict[str, Cost] = {}
    for part in parts:
        for stage, cost in part.items():
            merged[stage] = _sum([merged.get(stage, Cost()), cost])
    return merged


def _sum(costs: Iterable[Cost]) -> Cost:
    summed = Cost()
    for cost in costs:
        summed = Cost(
            summed.matmul_flops + cost.matmul_flops,
            summed.elementwise_flops + cost.elementwise_flops,
            max(summed.largest_bytes, cost.largest_bytes),
        )
    return summed


def _repeat(cost: Cost, times: int) -> Cost:
    return Cost(cost.matmul_flops * times, cost.elementwise_flops * times, cost.largest_bytes)


def _size(aval: Any) -> int:
    return math.prod(aval.shape)


def _open(jaxpr: Any) -> Jaxpr:
    """Returns the jaxpr inside a closed jaxpr, or an open jaxpr unchanged."""
    return getattr(jaxpr, "jaxpr", jaxpr)
