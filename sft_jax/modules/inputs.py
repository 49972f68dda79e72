"""Checks of a model's inputs; their errors name the problem and the values allowed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool

from sft_jax.structs import AnyArray, ModalitySpec


def check_modalities(modalities: Mapping[str, ModalitySpec]) -> None:
    """Raises ValueError unless there is at least one modality and each has a usable name."""
    if not modalities:
        raise ValueError("a model needs at least one modality")
    for name in modalities:
        if not name.isidentifier():
            raise ValueError(
                f"modality {name!r}: a name is made of letters, digits and underscores"
            )


def check_inputs(
    modalities: Mapping[str, ModalitySpec],
    inputs: Mapping[str, AnyArray],
    masks: Mapping[str, AnyArray],
    *,
    required: Collection[str] = (),
) -> dict[str, Bool[Array, "b _ ..."]]:
    """Checks names and shapes, and returns a mask for each input.

    Args:
      modalities: Shape of each modality of the model.
      inputs: Values by modality.
      masks: Masks of some or all of the inputs.
      required: Modalities that must be in `inputs`, for example to create parameters.

    Returns:
      A mask for each input; all True for an input without one.

    Raises:
      ValueError: If the inputs are not valid; the message lists all problems.
    """
    known = sorted(modalities)
    problems = [
        f"unknown modality {name!r} in {what}, known are {known}"
        for what, mapping in (("inputs", inputs), ("masks", masks))
        for name in sorted(set(mapping) - set(modalities))
    ]
    problems += [
        f"modality {name!r} has a mask but no input"
        for name in sorted(set(masks) & set(modalities) - set(inputs))
    ]
    if missing := sorted(set(required) - set(inputs)):
        problems.append(f"init needs every modality, missing {missing}, got {sorted(inputs)}")
    elif not inputs:
        problems.append(f"no modality given, known are {known}")
    for name in sorted(set(inputs) & set(modalities)):
        problems += _shape_problems(name, modalities[name], inputs[name], masks.get(name))
    sizes = {name: array.shape[0] for name, array in sorted(inputs.items()) if array.ndim}
    if len(set(sizes.values())) > 1:
        problems.append(f"modalities differ in batch size: {sizes}")
    if problems:
        raise ValueError("; ".join(problems))
    return {
        name: jnp.asarray(masks[name] if name in masks else jnp.ones(array.shape[:-1], bool))
        for name, array in inputs.items()
    }


def _shape_problems(
    name: str, spec: ModalitySpec, array: AnyArray, mask: AnyArray | None
) -> list[str]:
    # With fewer steps along a later axis, tokens would get the learned positions of others.
    most, *rest = spec.shape
    expected = f"[batch, 1 to {most}, {', '.join(map(str, rest))}]"
    if array.ndim < 2 or list(array.shape[2:]) != rest or not 1 <= array.shape[1] <= most:
        return [f"modality {name!r}: expected an array of {expected}, got {list(array.shape)}"]
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return [f"modality {name!r}: expected floats, got {array.dtype}"]
    if mask is None:
        return []
    if mask.dtype != bool or mask.shape != array.shape[:-1]:
        return [
            f"mask of modality {name!r}: expected booleans of {list(array.shape[:-1])},"
            f" got {mask.dtype} of {list(mask.shape)}"
        ]
    return []
