"""Tensors of the authors' `state_dict` that make up each parameter of our models.

The authors name the slots of modalities `rgb`, `spec` and `text`, whatever data they hold.
Their linear weights are [out, in], ours [in, out]. A `Source` describes all other differences.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from sft_jax.modules.mbt import BottleneckTransformer
from sft_jax.modules.mult import CrossmodalTransformer
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.modules.sft import SparseFusionTransformer
from sft_jax.modules.simple_fusion import ConcatFusion, LateFusion, Unimodal

SLOTS = ("rgb", "spec", "text")
_LETTERS = {"rgb": "v", "spec": "a", "text": "l"}
"""Names of the slots in MulT."""

UNUSED: Sequence[tuple[type[MultimodalClassifier], str, str]] = (
    (
        CrossmodalTransformer,
        r"network\.embed_positions\._float_tensor",
        "no value: a buffer of positions that are never added",
    ),
    (
        SparseFusionTransformer,
        r"network\.fusion_(attn|mlps)\..+",
        "never called; reference_fusion_layer loads the rest of the authors' fusion layer",
    ),
    (Unimodal, rf"({'|'.join(SLOTS)})_tokenizer\..+", "of a modality that the model ignores"),
)
"""Model, pattern of tensor names, and the reason why the authors' code never uses them."""

Shape = tuple[int, ...]
Path = tuple[str, ...]
Order = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Source:
    """The authors' tensors that make up one parameter, and the steps that build it from them.

    Axes are those of the tensors in the file. The steps run in the order of the attributes.

    Attributes:
      tensors: Names of the tensors, concatenated along their first axis.
      third: Index of the third of the first axis to take: 0 query, 1 key, 2 value.
      packed: Whether packed query, key and value get an axis of their own, in front.
      blocks: Order in which to take equal blocks of each of the first axes. An empty or missing
        order keeps the axis.
      transposed: Whether to move the last axis to the front.
    """

    tensors: tuple[str, ...]
    third: int | None = None
    packed: bool = False
    blocks: tuple[Order, ...] = ()
    transposed: bool = False

    def shapes(self, parameter: Shape) -> tuple[Shape, ...]:
        """Returns the shape that each tensor must have for a parameter of a given shape."""
        first, *rest = (*parameter[1:], parameter[0]) if self.transposed else parameter
        if self.packed:
            first, rest = first * rest[0], rest[1:]
        if self.third is not None:
            first *= 3
        return ((first // len(self.tensors), *rest),) * len(self.tensors)

    def build(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """Builds the parameter from its tensors, in the order of their names."""
        array = np.concatenate(tensors)
        if self.third is not None:
            array = np.split(array, 3)[self.third]
        if self.packed:
            array = array.reshape(3, -1, *array.shape[1:])
        for axis, order in enumerate(self.blocks):
            if order:
                blocks = np.split(array, len(order), axis)
                array = np.concatenate([blocks[i] for i in order], axis)
        return np.moveaxis(array, -1, 0) if self.transposed else array


@dataclasses.dataclass(frozen=True)
class Stack:
    """One parameter of several blocks, stacked along a first axis.

    Attributes:
      sources: Source of the parameter in each block.
    """

    sources: tuple[Source, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all tensors, one block after another."""
        return tuple(name for source in self.sources for name in source.tensors)

    def shapes(self, parameter: Shape) -> tuple[Shape, ...]:
        """Returns the shape that each tensor must have; see `Source.shapes`."""
        return tuple(shape for source in self.sources for shape in source.shapes(parameter[1:]))

    def build(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """Builds the parameter from its tensors; see `Source.build`."""
        rest = iter(tensors)
        return np.stack(
            [
                source.build(list(itertools.islice(rest, len(source.tensors))))
                for source in self.sources
            ]
        )


def slot_problems(model: MultimodalClassifier, names: Mapping[str, str]) -> list[str]:
    """Describes the errors in `names`, which maps each slot to our name of its modality.

    Some models depend on the order of the modalities. Ours order modalities by name, so some
    names do not fit.
    """
    used = _used_modalities(model)
    problems = [
        f"{slot!r} is not a slot of the authors: they are {', '.join(SLOTS)}"
        for slot in sorted(set(names) - set(SLOTS))
    ]
    problems += [
        f"{name!r} is not a modality of the model: they are {', '.join(sorted(model.modalities))}"
        for name in sorted(set(names.values()) - set(model.modalities))
    ]
    problems += [
        f"modality {name!r} must stand for exactly one of the slots {', '.join(SLOTS)}"
        for name in used
        if list(names.values()).count(name) != 1
    ]
    return problems or list(_order_problems(model, names))


def parameter_sources(
    model: MultimodalClassifier, names: Mapping[str, str]
) -> dict[Path, Source | Stack]:
    """Maps the path of each parameter of `model` to its source in the authors' code.

    Parameters that the authors' code lacks are left out.

    Args:
      model: One of our models that also exists in the authors' code.
      names: Our name of the modality in each slot; see `slot_problems`.

    Raises:
      TypeError: For a model that the authors' code lacks.
    """
    names = {slot: name for slot, name in names.items() if name in _used_modalities(model)}
    n_pre, n_post = model.n_pre, model.n_post
    tree: dict[str, Any] = {"head": _head()}
    tree |= {f"tokenizer_{name}": _tokenizer(slot) for slot, name in names.items()}
    match model:
        case SparseFusionTransformer():
            for slot, name in names.items():
                tree |= {f"unimodal_{name}_{i}": _block(f"_{slot}", i) for i in range(n_pre)}
                tree[f"pooling_{name}"] = _sparse_attention(SLOTS.index(slot))
            blocks = [_block("_fused", i) for i in range(n_post)]
            if blocks:
                *before, tree["fused_last"] = blocks
                if before:
                    tree["fused"] = jax.tree.map(lambda *sources: Stack(sources), *before)
        case LateFusion() | BottleneckTransformer():
            for slot, name in names.items():
                numbers = range(n_pre + n_post)
                tree |= {f"unimodal_{name}_{i}": _block(f"_{slot}", i) for i in numbers}
        case ConcatFusion():
            tree |= {f"fused_{i}": _block("", i) for i in range(n_pre + n_post)}
        case Unimodal():
            (name,) = names.values()
            tree |= {f"unimodal_{name}_{i}": _block("", i) for i in range(n_pre)}
            tree |= {f"unimodal_{name}_{n_pre + i}": _block("_fused", i) for i in range(n_post)}
        case CrossmodalTransformer():
            tree |= _crossmodal(names, n_pre, n_post)
        case _:
            raise TypeError(f"the authors have no model like {type(model).__name__}")
    return flatten_dict(tree)


def _used_modalities(model: MultimodalClassifier) -> list[str]:
    """Lists the modalities of a model that have parameters."""
    known = sorted(model.modalities)
    return [model.modality or known[0]] if isinstance(model, Unimodal) else known


def _order_problems(model: MultimodalClassifier, names: Mapping[str, str]) -> Iterator[str]:
    in_turn = isinstance(model, BottleneckTransformer) and model.faithful
    windowed = isinstance(model, ConcatFusion) and model.reference_windows is not None
    ours, theirs = _our_order(names), [slot for slot in SLOTS if slot in names]
    because = f"{type(model).__name__} takes modalities in the order of their names"
    if (in_turn or windowed) and ours != theirs:
        yield (
            f"{because}, here {_listed(ours, names)}: to compute what the authors' code does, they"
            f" must be named so that {_listed(theirs, names)} is their alphabetical order"
        )
    if isinstance(model, CrossmodalTransformer) and len(set(_joined(names).values())) > 1:
        yield (
            f"{because}, here {_listed(ours, names)}, and so joins their features; as a norm of the"
            " joined features is shared, the authors' parameters fit only where the name in slot"
            " spec comes between those in rgb and text in alphabetical order"
        )


def _listed(slots: Sequence[str], names: Mapping[str, str]) -> str:
    return ", ".join(f"{names[slot]} ({slot})" for slot in slots)


def _our_order(names: Mapping[str, str]) -> list[str]:
    return sorted(names, key=lambda slot: names[slot])


def _joined(names: Mapping[str, str]) -> dict[str, Order]:
    """Finds the positions of our sources in the authors' joined features, per target of MulT."""
    ours = _our_order(names)
    theirs = [slot for slot in reversed(SLOTS) if slot in names]
    joined = {}
    for target in ours:
        others = [slot for slot in theirs if slot != target]
        joined[target] = tuple(others.index(slot) for slot in ours if slot != target)
    return joined


def _crossmodal(names: Mapping[str, str], n_pre: int, n_post: int) -> dict[str, Any]:
    joined = _joined(names)
    pair = next(iter(joined.values()))
    theirs = [slot for slot in reversed(SLOTS) if slot in names]
    all_blocks = tuple(
        theirs.index(target) * len(order) + i for target, order in joined.items() for i in order
    )
    tree: dict[str, Any] = {
        "cross_norm": _norm("network.cross_modal_norm"),
        "self_norm": _norm("network.atten_norm", pair),
        "mlp_in": _linear("network.proj1.", columns=all_blocks),
        "mlp_out": _linear("network.proj2.", rows=all_blocks),
        "head": _head(all_blocks),
    }
    for slot, name in names.items():
        for source in set(names) - {slot}:
            stack = f"network.trans_{_LETTERS[slot]}_with_{_LETTERS[source]}"
            path = f"cross_{name}_with_{names[source]}"
            tree |= {f"{path}_{i}": _layer(f"{stack}.{i}") for i in range(n_pre)}
        stack = f"network.trans_{_LETTERS[slot]}_mem"
        tree |= {f"self_{name}_{i}": _layer(f"{stack}.{i}", pair) for i in range(n_post)}
    return tree


def _layer(name: str, order: Order = ()) -> dict[str, Any]:
    """Makes the sources of a layer of MulT, with its blocks of features in a given order."""
    packed = f"{name}.self_attn.in_proj_"
    return {
        part: _linear(packed, third=third, columns=order)
        for third, part in enumerate(("query", "key", "value"))
    } | {
        "out": _linear(f"{name}.self_attn.out_proj.", rows=order),
        "attention_norm": _norm(f"{name}.layer_norms.0", order),
        "mlp_norm": _norm(f"{name}.layer_norms.1", order),
        "mlp_in": _linear(f"{name}.fc1.", columns=order),
        "mlp_out": _linear(f"{name}.fc2.", rows=order),
    }


def _block(stack: str, i: int) -> dict[str, Any]:
    """Makes the sources of block `i` of one of the authors' stacks: "", "_rgb", "_fused" etc."""
    attention, mlp = f"network.attns{stack}.{i}", f"network.mlps{stack}.{i}"
    return {
        "attention": {
            "qkv": _linear(f"{attention}.in_proj_", packed=True),
            "out": _linear(f"{attention}.out_proj."),
        },
        "mlp_norm": _norm(f"{mlp}.0"),
        "mlp_in": _linear(f"{mlp}.1."),
        "mlp_out": _linear(f"{mlp}.4."),
    }


def _sparse_attention(index: int) -> dict[str, Any]:
    attention = f"network.sparse_attn.{index}"
    return {
        "attention": {
            "qkv": _linear(*(f"{attention}.{part}_proj." for part in "qkv"), packed=True),
            "out": _linear(f"{attention}.out_proj."),
        }
    }


def _tokenizer(slot: str) -> dict[str, Any]:
    return {
        "cls": Source((f"{slot}_tokenizer.cls_token",)),
        "position": Source((f"{slot}_tokenizer.pos_embedding",)),
        "projection": _linear(f"{slot}_tokenizer.proj."),
    }


def _head(order: Order = ()) -> dict[str, Any]:
    return {
        "norm": _norm("network.classifier.0", order),
        "classifier": _linear("network.classifier.1.", columns=order),
    }


def _norm(name: str, order: Order = ()) -> dict[str, Source]:
    return {
        "scale": Source((f"{name}.weight",), blocks=(order,)),
        "bias": Source((f"{name}.bias",), blocks=(order,)),
    }


def _linear(
    *prefixes: str,
    third: int | None = None,
    packed: bool = False,
    rows: Order = (),
    columns: Order = (),
) -> dict[str, Source]:
    """Makes the sources of a dense layer; rows are the authors' outputs, columns their inputs."""
    weights = tuple(f"{prefix}weight" for prefix in prefixes)
    biases = tuple(f"{prefix}bias" for prefix in prefixes)
    return {
        "kernel": Source(weights, third, packed, blocks=(rows, columns), transposed=True),
        "bias": Source(biases, third, packed, blocks=(rows,)),
    }
