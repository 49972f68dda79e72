"""What all models have in common: attributes, checks, tokenizing and the head."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from sft_jax.modules.block import Block
from sft_jax.modules.head import ClassifierHead, OrdinalHead
from sft_jax.modules.inputs import check_inputs, check_modalities
from sft_jax.modules.tokenizer import Tokenizer
from sft_jax.ops.attention.tiled import SAVED
from sft_jax.ops.noise import example_keys
from sft_jax.ops.presence import is_present
from sft_jax.structs import AnyArray, AttentionKernel, ModalitySpec, Task, Tokens

_LEAST = {"num_classes": 1, "width": 1, "num_heads": 1, "n_pre": 0, "n_post": 0, "parts": 1}

_MIN_TOKENS_TO_SPLIT = 129
"""Tokens of a sequence, CLS included, from which on a batch is cut into groups."""


def mean_over_present(
    values: Sequence[Float[Array, "b ..."]], present: Sequence[Bool[Array, " b"]]
) -> Float[Array, "b ..."]:
    """The mean over the modalities that each example has.

    Args:
      values: one array for each modality.
      present: for each modality, the examples that have it.

    Returns:
      `sum_m present_m values_m / sum_m present_m`; 0 for an example without any modality.
    """
    count = jnp.maximum(sum(there.astype(jnp.int32) for there in present), 1)
    total = _total_over_present(values, present)
    mean = total / count.reshape(-1, *[1] * (total.ndim - 1)).astype(total.dtype)
    return mean.astype(values[0].dtype)


def sum_over_present(
    values: Sequence[Float[Array, "b ..."]], present: Sequence[Bool[Array, " b"]]
) -> Float[Array, "b ..."]:
    """The sum over the modalities that each example has; 0 where it has none."""
    return _total_over_present(values, present).astype(values[0].dtype)


def _total_over_present(
    values: Sequence[Float[Array, "b ..."]], present: Sequence[Bool[Array, " b"]]
) -> Float[Array, "b ..."]:
    """The same in float32 at least: numbers of float16 may have a mean there and no sum."""
    total = jnp.zeros_like(values[0], jnp.promote_types(values[0].dtype, jnp.float32))
    for each, there in zip(values, present, strict=True):
        total += jnp.where(there.reshape(-1, *[1] * (total.ndim - 1)), each, 0)
    return total


def join(*parts: Tokens) -> Tokens:
    """Puts sequences one after the other; a token without a size has size 1 beside others."""
    sizes = None
    if any(part.sizes is not None for part in parts):
        dtype = jnp.promote_types(parts[0].values.dtype, jnp.float32)
        each = [jnp.ones(p.mask.shape, dtype) if p.sizes is None else p.sizes for p in parts]
        sizes = jnp.concatenate(each, axis=1)
    return Tokens(
        jnp.concatenate([part.values for part in parts], axis=1),
        jnp.concatenate([part.mask for part in parts], axis=1),
        sizes,
    )


class MultimodalClassifier(nn.Module):
    """The attributes, checks and parts that the models share; each adds its `__call__`.

    Attributes:
      num_classes: outputs: classes, labels, or numbers to predict.
      modalities: name to shape of each modality.
      width: features of a token.
      num_heads: attention heads; must divide `width`.
      n_pre: blocks before fusion.
      n_post: blocks from fusion on.
      dropout: rate inside blocks.
      embedding_std: standard deviation that CLS and positions are initialised with. 1 is
        the authors'; where the place of a token in the sequence says little, a smaller one
        lets what the token holds count from the start.
      dtype: of the computation; None for that of inputs and parameters. Parameters are
        float32, and the logits are never less than float32.
      attention_kernel: how attention is computed, which changes nothing but its cost; see
        `sft_jax.modules.attention.SelfAttention`.
      parts: number of groups that a batch is cut into where sequences have more than 128
        tokens. The groups pass through each block before fusion one after the other, and all
        but attention is computed again for the gradient, which trades time for memory. It
        changes no number. Where it does not divide the batch, the greatest common divisor
        counts.
      task: what the outputs are, called logits everywhere: with single_label and multi_label
        logits of a softmax or of sigmoids; with ordinal log-probabilities (`OrdinalHead`);
        with regression the predicted numbers. A model that averages logits over modalities,
        or gives 0 without any, does so with each: the mean of log-probabilities is that of
        a normalised geometric mean, and a regression without input predicts 0.

    Raises (on `init` and `apply`):
      ValueError: for an attribute out of range or an input of the wrong name or shape.
    """

    num_classes: int
    modalities: Mapping[str, ModalitySpec]
    width: int = 40
    num_heads: int = 5
    n_pre: int = 1
    n_post: int = 11
    dropout: float = 0.0
    embedding_std: float = 1.0
    dtype: Dtype | None = None
    attention_kernel: AttentionKernel = "auto"
    parts: int = 1
    task: Task = "single_label"

    def __post_init__(self) -> None:
        # A model with a dict could not be hashed, as a static argument of jax.jit must be.
        for field in dataclasses.fields(self):
            value = getattr(self, field.name, None)
            if isinstance(value, Mapping):
                object.__setattr__(self, field.name, flax.core.freeze(value))
        # A name and its type would be equal and have two hashes.
        if self.dtype is not None:
            object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        super().__post_init__()

    @property
    def mixed_modalities(self) -> tuple[str, ...]:
        """The modalities that mixup mixes: those that the logits depend on."""
        return tuple(sorted(self.modalities))

    @property
    def joint_from(self) -> int:
        """The first layer whose tokens are no longer of one modality alone."""
        return self.n_pre

    @property
    def shared_from(self) -> int | None:
        """The first layer that mixes one token which all examples have; see `Mixup`."""
        return None

    def example_inputs(self) -> dict[str, Float[Array, "1 _ ... _"]]:
        """Zeros of the right shapes, to initialise from."""
        return {name: jnp.zeros((1, *spec.shape)) for name, spec in self.modalities.items()}

    def _problems(self) -> list[str]:
        """Everything that is wrong with the attributes; subclasses add theirs."""
        problems = [
            f"{name}={getattr(self, name)} must be at least {least}"
            for name, least in _LEAST.items()
            if getattr(self, name) < least
        ]
        if self.task not in get_args(Task):
            problems.append(f"task={self.task!r} is not one of {', '.join(get_args(Task))}")
        if self.task == "ordinal" and self.num_classes == 1:
            problems.append("num_classes=1 must be at least 2 for task='ordinal'")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout={self.dropout} must be at least 0 and below 1")
        if self.attention_kernel not in get_args(AttentionKernel):
            problems.append(
                f"attention_kernel={self.attention_kernel!r} is not one of"
                f" {', '.join(get_args(AttentionKernel))}"
            )
        if self.embedding_std <= 0:
            problems.append(f"embedding_std={self.embedding_std} must be above 0")
        if self.num_heads >= 1 and self.width % self.num_heads:
            problems.append(f"num_heads={self.num_heads} does not divide width={self.width}")
        return problems

    def _check(
        self,
        inputs: Mapping[str, AnyArray],
        masks: Mapping[str, AnyArray] | None,
        *,
        every: bool | None = None,
    ) -> dict[str, Bool[Array, "b _ ..."]]:
        """Raises ValueError for wrong attributes or inputs; returns a mask for each input, sorted.

        Args:
          inputs: modality name to values.
          masks: masks of some or all of the inputs.
          every: whether every modality must be there; by default, if initialising.
        """
        check_modalities(self.modalities)
        if problems := self._problems():
            raise ValueError(f"{type(self).__name__}: " + "; ".join(problems))
        every = self.is_initializing() if every is None else every
        in_order = {name: inputs[name] for name in sorted(inputs)}
        return check_inputs(self.modalities, in_order, masks or {}, every=every)

    def _tokenize(self, name: str, values: AnyArray, mask: Bool[Array, "b _ ..."]) -> Tokens:
        """The tokens of one modality, CLS first and real in every example."""
        tokenizer = Tokenizer(
            self.modalities[name],
            self.width,
            self.embedding_std,
            self.dtype,
            name=f"tokenizer_{name}",
        )
        return tokenizer(jnp.asarray(values), mask)

    def _streams(
        self, inputs: Mapping[str, AnyArray], masks: Mapping[str, Bool[Array, "b _ ..."]]
    ) -> tuple[dict[str, Tokens], dict[str, Bool[Array, " b"]]]:
        """The tokens of every modality given, and which examples have it, both by name.

        Sorted, so that neither parameters nor logits depend on the order of the mapping.
        """
        names = sorted(inputs)
        streams = {name: self._tokenize(name, inputs[name], masks[name]) for name in names}
        return streams, {name: is_present(masks[name]) for name in names}

    def _unimodal_blocks(
        self, i: int, streams: Mapping[str, Tokens], *, train: bool
    ) -> dict[str, Tokens]:
        """Block `i` of every modality."""
        return {
            name: self._in_parts(self._unimodal_block(name, i), tokens, train=train)
            for name, tokens in streams.items()
        }

    def _in_parts(self, module: nn.Module, tokens: Tokens, *, train: bool) -> Any:
        """`module(tokens)`, for one group of examples after the other."""
        if self.is_initializing():
            return module(tokens, train=train)
        batch, length = tokens.mask.shape
        keys = {
            name: example_keys(self.make_rng(name), batch)
            for name in ("dropout", "pool")
            if self.has_rng(name)
        }
        cut = self.parts > 1 and length >= _MIN_TOKENS_TO_SPLIT
        # A symbolic size of the batch has no divisor.
        parts = math.gcd(batch, self.parts) if cut and isinstance(batch, int) else 1
        if parts == 1 or self.is_mutable_collection("intermediates"):
            return module(tokens, train=train, keys=keys or None)
        # Every group takes each parts-th example, so that it stays spread over the devices.
        split = jax.tree.map(
            lambda a: a.reshape(batch // parts, parts, *a.shape[1:]).swapaxes(0, 1), (tokens, keys)
        )

        def one_group(module: nn.Module, carry: tuple[()], group: Any) -> tuple[tuple[()], Any]:
            tokens, keys = group
            return carry, module(tokens, train=train, keys=keys or None)

        each = nn.scan(
            nn.remat(
                one_group,
                policy=jax.checkpoint_policies.save_only_these_names(SAVED),
                prevent_cse=False,
            ),
            variable_broadcast="params",
            split_rngs={"dropout": False, "pool": False},
        )
        _, stacked = each(module, (), split)
        return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(batch, *a.shape[2:]), stacked)

    def _classify_each(self, streams: Mapping[str, Tokens]) -> list[Float[Array, "b c"]]:
        """The logits of the CLS of each modality, from one head that they share."""
        head = self._head()
        logits = []
        for tokens in streams.values():
            self.sow("intermediates", "cls", tokens.values[:, 0])
            logits.append(head(tokens.values[:, 0]))
        return logits

    def _fill(self, name: str, tokens: Tokens) -> Tokens:
        """Adds padding up to the modality's full length: fixed windows count positions."""
        short = self.modalities[name].num_tokens + 1 - tokens.mask.shape[1]
        return Tokens(
            jnp.pad(tokens.values, ((0, 0), (0, short), (0, 0))),
            jnp.pad(tokens.mask, ((0, 0), (0, short))),
        )

    def _unimodal_block(self, modality: str, i: int) -> Block:
        """Block `i` over the tokens of one modality."""
        return self._block(f"unimodal_{modality}_{i}")

    def _block(self, name: str | None, **attributes: Any) -> Block:
        return Block(
            self.num_heads,
            self.dropout,
            self.dtype,
            self.attention_kernel,
            name=name,
            **attributes,
        )

    def _head(self) -> ClassifierHead | OrdinalHead:
        head = OrdinalHead if self.task == "ordinal" else ClassifierHead
        return head(self.num_classes, self.dtype, name="head")
