"""Models as `flax.nnx` modules, with the maths and the parameters of the Linen modules.

A model here holds its parameters and random streams; the Linen module computes. `import sft_jax`
leaves this part out, since `flax.nnx` takes time to import.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Key

from sft_jax.modules import mbt, mult, multimodal, sft, simple_fusion
from sft_jax.ops.mixup import Mixup
from sft_jax.structs import AnyArray, ModalitySpec

_STREAMS = ("dropout", "pool")


class MultimodalClassifier(nnx.Module):
    """NNX module around a Linen model: one of ours, or one of your own that derives from ours.

    Parameters are initialised at once, from the modality specs. The module starts in training
    mode; `train()` and `eval()` switch, and so does `nnx.view` where Flax has it.

    Args:
      module: Linen module with a method `example_inputs`.
      rngs: Random streams "params", "dropout" and "pool", or a default.

    Attributes:
      module: The Linen module. `model.module = model.module.clone(k=1)` changes what no
        parameter depends on.
      params: Parameters by the names of the Linen module, each an `nnx.Param`.
      streams: Random streams "dropout" and "pool", forked from the `rngs` given.
      deterministic: Whether to evaluate rather than train: no dropout, and random pools that
        always keep the same tokens.

    Raises:
      TypeError: If `module` is no Linen module.
      ValueError: For an attribute of the Linen module out of range.
    """

    def __init__(self, module: nn.Module, *, rngs: nnx.Rngs):
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a flax.linen.Module, got {module!r}")
        self.module = module
        self.params = nnx.data(jax.tree.map(nnx.Param, _initial_params(module, rngs.params())))
        self.streams = nnx.data({name: rngs[name].fork() for name in _STREAMS})
        self.deterministic = False

    def __call__(
        self,
        inputs: Mapping[str, AnyArray],
        masks: Mapping[str, AnyArray] | None = None,
        *,
        mixup: Mixup | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "b c"]:
        """Computes the logits, as `sft_jax.modules.multimodal.MultimodalClassifier` does.

        Args:
          inputs: `[b, *lengths, features]` floats by modality; any modality may be absent.
          masks: `[b, *lengths]` booleans by modality, False for padding. A modality without an
            entry has no padding.
          mixup: Mixes the output of a block between examples.
          deterministic: Whether to evaluate rather than train; None for the attribute.
          rngs: Random streams to draw from in training in place of the model's own.

        Returns:
          `[b, num_classes]` logits, float32 at least.

        Raises:
          ValueError: For an input of the wrong name or shape.
        """
        if deterministic is None:
            deterministic = self.deterministic
        streams = self.streams if rngs is None else rngs
        logits: Any = self.module.apply(
            {"params": self.to_linen()},
            inputs,
            masks,
            train=not deterministic,
            mixup=mixup,
            rngs={} if deterministic else {name: streams[name]() for name in _STREAMS},
        )
        return logits

    def set_view(self, deterministic: bool | None = None) -> None:
        """Sets the mode of a view of the model, for `nnx.view`.

        Args:
          deterministic: Whether to evaluate rather than train; None for no change.
        """
        if deterministic is not None:
            self.deterministic = deterministic

    def to_linen(self) -> dict[str, Any]:
        """Returns the parameters for `module.apply({"params": params}, ...)`, not copied."""
        params: dict[str, Any] = nnx.to_pure_dict(nnx.state(self.params))
        return params

    def from_linen(self, params: dict[str, Any] | flax.core.FrozenDict[str, Any]) -> None:
        """Takes over parameters of the Linen module, such as those of a trained run.

        Args:
          params: Nested mapping of arrays, as `module.init(...)["params"]` is. Arrays of JAX are
            not copied.

        Raises:
          ValueError: For a parameter that is missing, unknown or of another shape.
        """
        params = jax.tree.map(jnp.asarray, flax.core.unfreeze(params))
        own, given = (
            {path: array.shape for path, array in flatten_dict(tree, sep="/").items()}
            for tree in (self.to_linen(), params)
        )
        problems = [
            f"{path} is {given.get(path, 'missing')}, must be {own.get(path, 'absent')}"
            for path in sorted(own.keys() | given.keys())
            if own.get(path) != given.get(path)
        ]
        if problems:
            kind = type(self.module).__name__
            raise ValueError(f"shapes of the parameters of {kind}: " + "; ".join(problems))
        nnx.update(self, {"params": params})


@functools.partial(jax.jit, static_argnums=0)
def _initial_params(module: Any, key: Key[Array, ""]) -> dict[str, Any]:
    params: dict[str, Any] = module.init(key, module.example_inputs())["params"]
    return params


class _Named(MultimodalClassifier):
    """Module that makes its Linen module from attributes.

    Args:
      num_classes: Number of outputs: classes, labels, or numbers to predict.
      modalities: Shape of each modality by name.
      rngs: Random streams "params", "dropout" and "pool", or a default.
      **attributes: Other attributes of the Linen module.

    Raises:
      TypeError: For an attribute that the Linen module does not have.
      ValueError: For an attribute out of range.
    """

    kind = multimodal.MultimodalClassifier

    def __init__(
        self,
        num_classes: int,
        modalities: Mapping[str, ModalitySpec],
        *,
        rngs: nnx.Rngs,
        **attributes: Any,
    ):
        super().__init__(self.kind(num_classes, modalities, **attributes), rngs=rngs)


class SparseFusionTransformer(_Named):
    """`sft_jax.SparseFusionTransformer` as an NNX module."""

    kind = sft.SparseFusionTransformer


class LateFusion(_Named):
    """`sft_jax.LateFusion` as an NNX module."""

    kind = simple_fusion.LateFusion


class ConcatFusion(_Named):
    """`sft_jax.ConcatFusion` as an NNX module."""

    kind = simple_fusion.ConcatFusion


class Unimodal(_Named):
    """`sft_jax.Unimodal` as an NNX module."""

    kind = simple_fusion.Unimodal


class BottleneckTransformer(_Named):
    """`sft_jax.BottleneckTransformer` as an NNX module."""

    kind = mbt.BottleneckTransformer


class CrossmodalTransformer(_Named):
    """`sft_jax.CrossmodalTransformer` as an NNX module."""

    kind = mult.CrossmodalTransformer
