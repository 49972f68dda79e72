"""Kept tokens and saliency of a prediction, in the units of its inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from sft_jax.inference.inputs import Inputs
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.modules.sft import SparseFusionTransformer
from sft_jax.ops.pool import find_pool
from sft_jax.structs import ModalitySpec

SELECTING = (
    "attn_topk", "attn_wkmedoids", "random", "attn_random", "strided_random", "joint_topk"
)  # fmt: skip
"""Pools of this library that select whole tokens."""


class NotExplainableError(ValueError):
    """Error for a model that keeps every token, or mixes them."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Tokens of one modality that were kept for the fusion.

    Attributes:
      kept: Part of the input that each kept token covers, as a slice for each axis.
        `values[kept[0]]` are the steps, pixels or columns of the first one. They stand in the
        order of the pool, which for `attn_topk` is that of descending saliency, and for
        `joint_topk` that of its score. Steps that were dropped, as the run was trained with
        `not_finite=drop`, are not counted.
      saliency: Saliency that the pool saw of each token, kept or not, over the grid of patches:
        by default the attention that it received (`sft_jax.modules.sparse_pooling`). `[tokens]`
        float32 for a sequence, `[rows, columns]` for an image. NaN beyond the end of the example.
    """

    kept: tuple[tuple[slice, ...], ...]
    saliency: np.ndarray


def explain_program(model: MultimodalClassifier) -> Any:
    """Jitted function from parameters, inputs and masks to what `explain` reads.

    Raises:
      NotExplainableError: If the model has no pool that selects tokens, or tokens of no known
        steps; when it is called, if a pool of another package selects none.
    """
    if not isinstance(model, SparseFusionTransformer):
        raise NotExplainableError(
            f"explain: {type(model).__name__} keeps every token; use SparseFusionTransformer with"
            f" a pool that selects, {', '.join(SELECTING)}"
        )
    if model.tokenizers:
        raise NotExplainableError(
            f"explain: the tokenizer of {', '.join(model.tokenizers)} makes tokens of no known"
            " steps; leave model.tokenizers out"
        )

    def program(params: Any, inputs: Any, masks: Any) -> Any:
        _, state = model.apply({"params": params}, inputs, masks, mutable=["intermediates"])
        found = state["intermediates"]
        pooled = {name: found[f"pooling_{name}"] for name in sorted(inputs)}
        saliency = {name: pooling["saliency"][0] for name, pooling in pooled.items()}
        mask = found["fused_input"][0].mask
        if find_pool(model.pool).joint:
            joint = _positions(model, found.get("joint_pooling", {})) if _pools(model) else None
            index, filled = _by_modality(joint, mask, saliency)
            return saliency, index, filled
        # With k=0 nothing is pooled.
        index = {
            name: _positions(model, own.get("reducer", {}))
            for name, own in pooled.items()
            if _pools(model, name)
        }
        # Pooled tokens come last, those of each modality in the order of the names.
        filled = {}
        start = mask.shape[1] - sum(positions.shape[1] for positions in index.values())
        for name, positions in index.items():
            filled[name] = mask[:, start : start + positions.shape[1]]
            start += positions.shape[1]
        return saliency, index, filled

    return jax.jit(program)


def _pools(model: SparseFusionTransformer, *names: str) -> bool:
    """Returns True unless nothing is kept of some modalities, by default all of them."""
    kept = model.kept_tokens()
    return any(kept[name] for name in names or kept) or not find_pool(model.pool).uses_k


def _positions(model: SparseFusionTransformer, pooling: Mapping[str, Any]) -> Array:
    """Positions that a pool has sown."""
    if "index" not in pooling:
        raise NotExplainableError(
            f"explain: pool {model.pool!r} selects no whole tokens; these do:"
            f" {', '.join(SELECTING)}"
        )
    return pooling["index"][0]


def _by_modality(
    joint: Array | None, mask: Array, saliency: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Positions in each modality, and the slots that hold its tokens, of a joint selection."""
    if joint is None:
        return {}, {}
    index, filled, start = {}, {}, 0
    for name, own in saliency.items():
        stop = start + own.shape[1]
        index[name] = joint - start
        filled[name] = mask[:, -joint.shape[1] :] & (joint >= start) & (joint < stop)
        start = stop
    return index, filled


def explain(
    model: MultimodalClassifier, examples: Sequence[Inputs], outputs: Any
) -> list[dict[str, Explanation]]:
    """Turns the result of `explain_program` into the units of the inputs.

    Args:
      model: Flax module.
      examples: Examples of the batch, without those that fill it up.
      outputs: Result of the program.

    Returns:
      Modality name to its explanation, for each example.
    """
    saliency, index, filled = jax.tree.map(np.asarray, outputs)
    explanations = []
    for i, example in enumerate(examples):
        own = {}
        for name, lengths in example.lengths.items():
            spec, kept = model.modalities[name], np.zeros(0, int)
            lengths = spec.axes if spec.kind == "vector" else lengths
            if name in index:
                kept = index[name][i][filled[name][i]]
            own[name] = Explanation(
                tuple(_covered(spec, lengths, int(token)) for token in kept),
                _on_grid(spec, lengths, saliency[name][i]),
            )
        explanations.append(own)
    return explanations


def _grid(spec: ModalitySpec, lengths: Sequence[int]) -> tuple[int, ...]:
    """Number of patches along each axis."""
    return tuple(-(-n // patch) for n, patch in zip(lengths, spec.patch_sizes, strict=True))


def _covered(spec: ModalitySpec, lengths: Sequence[int], token: int) -> tuple[slice, ...]:
    """Part of an input that a token covers; patches are numbered in row-major order."""
    # The first axis may be cut short, on which no number depends.
    grid = (token + 1, *_grid(spec, spec.axes)[1:])
    places = np.unravel_index(token, grid)
    return tuple(
        slice(int(place) * patch, min((int(place) + 1) * patch, length))
        for place, patch, length in zip(places, spec.patch_sizes, lengths, strict=True)
    )


def _on_grid(spec: ModalitySpec, lengths: Sequence[int], saliency: np.ndarray) -> np.ndarray:
    """Saliency of each patch of an example, NaN beyond its end."""
    rest = _grid(spec, spec.axes)[1:]
    values = saliency.reshape(-1, *rest)
    whole = np.full(_grid(spec, spec.axes), np.nan, np.float32)
    real = tuple(slice(n) for n in _grid(spec, lengths))
    whole[real] = values[real]
    return whole
