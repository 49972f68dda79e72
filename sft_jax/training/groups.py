"""Learning rates of groups of parameters: factors by path, freezing, and decay by layer.

A factor scales the update of a parameter after everything else, weight decay included. A factor of
0 freezes the parameter: it gets no update, no decay and no gradient, so that clipping ignores it.

The layers for `optim.layer_decay`, from the lowest to the highest:

| layer | parameters |
| --- | --- |
| input | tokenizers, learned tokens |
| one for each block before fusion | blocks of a modality, all of mbt; crossmodal layers of mult |
| pooling | self-attention before pooling, learned pools, output norm of the crossmodal layers |
| one for each fused block | fused blocks, self-attention layers of mult |
| readout | learned readout, last layers of mult |
| head | head, whose factor is 1 |

With `optim.layer_decay=d`, a layer that is `n` layers below the head has the factor `d**n` (Howard
and Ruder 2018, arXiv 1801.06146, section 3.2; Clark et al. 2020, arXiv 2003.10555). `fused` holds
the parameters of several blocks along its first axis; each block has the factor of its own layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from sft_jax.config import OptimConfig

STACK = "fused"
"""Outermost name of parameters of several blocks, which are stacked along a first axis."""

_LAYERS: Sequence[str] = (
    r"tokenizer_.*|cls|bottleneck",
    r"(?:unimodal|cross)_.*_(\d+)",
    r"pooling_.*|cross_norm",
    rf"{STACK}|fused_(\d+)|self_.*_(\d+)",
    r"fused_last",
    r"readout|self_norm|mlp_in|mlp_out",
    r"head",
)
"""Patterns of the outermost names in the order of depth, with the number of the block if any."""

Layer = tuple[int, int]


def scale_groups(config: OptimConfig) -> optax.GradientTransformation:
    """Makes the stateless transformation that scales updates by the factors of `config`."""

    def scale(updates: Any, _: Any) -> Any:
        return jax.tree.map(
            lambda factor, update: update if factor is None else update * factor,
            factors(config, updates),
            updates,
            is_leaf=lambda factor: factor is None,
        )

    return optax.stateless(scale)


def stop_gradients(config: OptimConfig, params: Any) -> Any:
    """Stops the gradients of frozen parameters, so that the backward pass leaves them out."""
    if not config.groups:
        return params
    return jax.tree_util.tree_map_with_path(
        lambda path, array: (
            array if _group_factor(config, _name(path)) else jax.lax.stop_gradient(array)
        ),
        params,
    )


def factors(config: OptimConfig, params: Any) -> Any:
    """Computes the factor of each parameter's learning rate.

    Args:
      config: Section of the optimiser.
      params: Parameters, or their shapes.

    Returns:
      Tree of None for 1, a float, or `[n, 1, ...]` float32 for the `n` blocks of a stack.

    Raises:
      ValueError: If `layer_decay` meets a parameter whose depth is not known.
    """
    layers = _layers(params) if config.layer_decay < 1 else {}

    def factor(path: Any, array: Any) -> Any:
        name = _name(path)
        value: Any = _group_factor(config, name)
        if value and layers:
            outer = name.partition("/")[0]
            powers = [config.layer_decay**below for below in layers[outer]]
            value *= powers[0] if outer != STACK else np.asarray(powers, np.float32)
        if np.ndim(value):
            return value.astype(np.float32).reshape(-1, *[1] * (len(array.shape) - 1))
        return None if value == 1 else value

    return jax.tree_util.tree_map_with_path(factor, params)


def check_groups(config: OptimConfig, params: Any) -> None:
    """Checks the patterns and the depth order against the parameters of a model.

    Args:
      config: Section of the optimiser.
      params: Parameters, or their shapes.

    Raises:
      ValueError: If a pattern of `optim.groups` applies to no parameter, all parameters are frozen,
        or `optim.layer_decay` meets a parameter whose depth is not known.
    """
    factors(config, params)
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    groups = [_group(config, name) for name in names]
    for index, (pattern, _) in enumerate(config.groups):
        if index not in groups:
            taken = [name for name in names if _covers(pattern, name)]
            reason = "it matches no parameter; there are"
            if taken:
                reason = "earlier patterns match the same parameters,"
            raise ValueError(
                f"optim.groups: pattern {pattern!r} has no effect: {reason}"
                f" {', '.join(taken or names)}"
            )
    if not any(_group_factor(config, name) for name in names):
        raise ValueError(
            f"optim.groups={config.groups} freezes all parameters: nothing would train"
        )


def _group(config: OptimConfig, name: str) -> int | None:
    """Index of the first group that covers a parameter."""
    covering = (i for i, (pattern, _) in enumerate(config.groups) if _covers(pattern, name))
    return next(covering, None)


def _group_factor(config: OptimConfig, name: str) -> float:
    group = _group(config, name)
    return 1.0 if group is None else config.groups[group][1]


def _covers(pattern: str, name: str) -> bool:
    """Tells whether a pattern matches a path, or one of the folders that lead to it."""
    return re.fullmatch(f"(?:{pattern})(?:/.*)?", name) is not None


def _layers(params: Mapping[str, Any]) -> dict[str, list[int]]:
    """Number of layers below the head by outermost name; a stack has one for each block."""
    places = {name: _places(name, tree) for name, tree in params.items()}
    if unknown := sorted(name for name, own in places.items() if not own):
        raise ValueError(
            f"optim.layer_decay: the depth of the parameters {', '.join(unknown)} is not known;"
            " set factors with optim.groups, and optim.layer_decay=1"
        )
    order = sorted({place for own in places.values() for place in own})
    return {
        name: [len(order) - 1 - order.index(place) for place in own] for name, own in places.items()
    }


def _places(name: str, tree: Any) -> list[Layer]:
    """Stage and number of the block of each layer under an outermost name; empty if unknown."""
    for stage, pattern in enumerate(_LAYERS):
        if match := re.fullmatch(pattern, name):
            if name == STACK:
                return [(stage, block) for block in range(jax.tree.leaves(tree)[0].shape[0])]
            return [(stage, int(next(filter(None, match.groups()), 0)))]
    return []


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
