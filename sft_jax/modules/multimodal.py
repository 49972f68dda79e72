"""Base class of all models: attributes, checks, tokens and the head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

import flax.core
import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from sft_jax.modules.batch_groups import apply_in_groups
from sft_jax.modules.block import Block
from sft_jax.modules.head import ClassifierHead, OrdinalHead
from sft_jax.modules.inputs import check_inputs, check_modalities
from sft_jax.modules.tokenizer import Tokenizer
from sft_jax.ops.attention import kernels
from sft_jax.ops.attention.kernels import Kernel
from sft_jax.ops.mixup import Mixup
from sft_jax.structs import AnyArray, ModalitySpec, Task, Tokens

_LEAST = {"num_classes": 1, "width": 1, "num_heads": 1, "n_pre": 0, "n_post": 0, "parts": 1}


class MultimodalClassifier(nn.Module):
    """Base class of the models; each adds its `compute_logits`.

    A model of its own derives from this class, and computes logits from tokens:

        class MyFusion(MultimodalClassifier):
            def compute_logits(self, streams, *, train, mixup):
                ...

    Names of submodules carry a meaning elsewhere. `sft_jax.profile` groups costs by the outermost
    name that is `head` or starts with `tokenizer_`, `unimodal_`, `pooling_` or `fused`. Everything
    else counts as `other`. `sft_jax.parallel.sharding.RULES` divides parameters over devices by
    the names of their layers, `qkv`, `out`, `mlp_in` and `mlp_out`. Other parameters are divided
    over the `fsdp` axis alone, or whole on each device.

    Attributes:
      num_classes: Number of outputs: classes, labels, or numbers to predict.
      modalities: Shape of each modality by name.
      width: Number of features of a token.
      num_heads: Number of attention heads; must divide `width`.
      n_pre: Number of blocks before fusion.
      n_post: Number of blocks from fusion on.
      dropout: Rate inside blocks.
      embedding_std: Standard deviation that CLS and positions are initialised with. The authors
        have 1. A smaller one lets the content of a token count from the start, which helps where
        its place in the sequence says little.
      dtype: Type of the computation; None for that of inputs and parameters. Parameters are
        float32, and the logits are never less than float32.
      attention_kernel: Name of a kernel of `sft_jax.ops.attention.kernels`, or a kernel. It
        changes the cost alone.
      parts: Number of groups that a batch is cut into where sequences have more than 128
        tokens. The groups pass through each block before fusion one after the other, which
        trades time for memory and changes no number (`sft_jax.modules.batch_groups`).
      task: Meaning of the outputs, called logits everywhere: with single_label and multi_label
        logits of a softmax or of sigmoids; with ordinal log-probabilities (`OrdinalHead`);
        with regression the predicted numbers. A model that averages logits over modalities does
        so for each task: the mean of log-probabilities is that of a normalised geometric mean.
        So does one that gives 0 without any modality: a regression without input predicts 0.
      tokenizers: Modules that make the tokens of some modalities, by name, in place of patches:
        see `sft_jax.modules.tokenizer.Tokenizer`. Each modality has a copy of its own.

    Raises (on `init` and `apply`):
      ValueError: For an attribute out of range or an input of the wrong name or shape.
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
    attention_kernel: str | Kernel = kernels.AUTO
    parts: int = 1
    task: Task = "single_label"
    tokenizers: Mapping[str, nn.Module] | None = None

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

    @nn.compact
    def __call__(
        self,
        inputs: Mapping[str, AnyArray],
        masks: Mapping[str, AnyArray] | None = None,
        *,
        train: bool = False,
        mixup: Mixup | None = None,
    ) -> Float[Array, "b c"]:
        """Computes the logits.

        Args:
          inputs: `[b, *lengths, features]` floats by modality. The first of the lengths may be
            less than the modality's, never more; the others are the modality's.
          masks: `[b, *lengths]` booleans by modality, False for padding. A modality without an
            entry has no padding.
          train: Whether to apply dropout, drawn from the random stream "dropout". In training the
            random pools draw from the stream "pool" rather than always the same tokens; in
            evaluation they do so only if that stream is given.
          mixup: Mixes the output of a block between examples. The blocks of a modality are
            layers 0 to `n_pre - 1`, and the fused blocks those from `n_pre` on.

        Returns:
          `[b, num_classes]` logits; 0 where none of `mixed_modalities` is in `inputs`. Applied
          with `mutable=["intermediates"]` and `capture_intermediates=True`, every tensor on the
          way can be had as well.
        """
        streams = self._make_streams(inputs, masks)
        if not streams:
            batch = next(iter(inputs.values())).shape[0]
            return jnp.zeros((batch, self.num_classes), jnp.float32)
        return self.compute_logits(streams, train=train, mixup=mixup)

    def compute_logits(
        self, streams: dict[str, Tokens], *, train: bool, mixup: Mixup | None
    ) -> Float[Array, "b c"]:
        """Computes the logits of the modalities given; each model implements it.

        Args:
          streams: Tokens of each modality of `inputs`, CLS first, in the order of the names. In
            an example without the modality all its tokens are masked, CLS included. A model
            that attends to tokens and reads CLS by their masks has no other case to consider.
          train: See `__call__`.
          mixup: See `__call__`. The model passes the output of block `i` of every modality to
            `mixup.streams(i, streams)`, and that of fused blocks to `mixup.fused(i, tokens)`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no compute_logits")

    @property
    def mixed_modalities(self) -> tuple[str, ...]:
        """Names of the modalities that the logits depend on, which mixup mixes."""
        return tuple(sorted(self.modalities))

    @property
    def joint_from(self) -> int:
        """First layer whose tokens are no longer of one modality alone."""
        return self.n_pre

    @property
    def shared_from(self) -> int | None:
        """First layer that mixes one token which all examples have; see `Mixup`."""
        return None

    def example_inputs(self) -> dict[str, Float[Array, "1 _ ... _"]]:
        """Makes zeros of the right shapes, to initialise from."""
        return {name: jnp.zeros((1, *spec.shape)) for name, spec in self.modalities.items()}

    def _problems(self) -> list[str]:
        """Lists everything that is wrong with the attributes; subclasses add theirs."""
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
        if isinstance(self.attention_kernel, str):
            try:
                kernels.kernel_name(self.attention_kernel)
            except ValueError as error:
                problems.append(str(error))
        if self.embedding_std <= 0:
            problems.append(f"embedding_std={self.embedding_std} must be above 0")
        if self.num_heads >= 1 and self.width % self.num_heads:
            problems.append(f"num_heads={self.num_heads} does not divide width={self.width}")
        if unknown := sorted(set(self.tokenizers or {}) - set(self.modalities)):
            problems.append(
                f"tokenizers names {unknown}, the modalities are {sorted(self.modalities)}"
            )
        return problems

    def _check(
        self, inputs: Mapping[str, AnyArray], masks: Mapping[str, AnyArray] | None
    ) -> dict[str, Bool[Array, "b _ ..."]]:
        """Raises ValueError for wrong attributes or inputs; returns sorted masks of all inputs.

        Args:
          inputs: Values by modality.
          masks: Masks of some or all of the inputs.
        """
        check_modalities(self.modalities)
        if problems := self._problems():
            raise ValueError(f"{type(self).__name__}: " + "; ".join(problems))
        # Initialisation makes the parameters of every modality that has any.
        required = self.mixed_modalities if self.is_initializing() else ()
        # Sorted, so that the program does not depend on the order of the mapping.
        in_order = {name: inputs[name] for name in sorted(inputs)}
        return check_inputs(self.modalities, in_order, masks or {}, required=required)

    def _make_streams(
        self, inputs: Mapping[str, AnyArray], masks: Mapping[str, AnyArray] | None
    ) -> dict[str, Tokens]:
        """Checks the inputs; makes the tokens of each modality that the logits depend on."""
        return {
            name: self._tokenize(name, inputs[name], mask)
            for name, mask in self._check(inputs, masks).items()
            if name in self.mixed_modalities
        }

    def _tokenize(self, name: str, values: AnyArray, mask: Bool[Array, "b _ ..."]) -> Tokens:
        """Makes the tokens of one modality, CLS first."""
        embed = (self.tokenizers or {}).get(name)
        if embed is not None:
            # A copy that belongs to no module yet, for the tokenizer to take and name.
            embed = embed.clone(parent=None, name=None, _deep_clone=True, _reset_names=True)
        tokenizer = Tokenizer(
            self.modalities[name],
            self.width,
            self.embedding_std,
            self.dtype,
            embed,
            name=f"tokenizer_{name}",
        )
        return tokenizer(jnp.asarray(values), mask)

    def unimodal_blocks(
        self, i: int, streams: Mapping[str, Tokens], *, train: bool
    ) -> dict[str, Tokens]:
        """Applies block `i` of every modality."""
        return {
            name: self._in_groups(self._unimodal_block(name, i), tokens, train=train)
            for name, tokens in streams.items()
        }

    def _in_groups(self, module: nn.Module, tokens: Tokens, *, train: bool) -> Any:
        return apply_in_groups(self, module, tokens, self.parts, train=train)

    def _classify_each(self, streams: Mapping[str, Tokens]) -> list[Float[Array, "b c"]]:
        """Classifies the CLS of each modality by one head that they share."""
        head = self.make_head()
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
        """Makes block `i` over the tokens of one modality."""
        return self.make_block(f"unimodal_{modality}_{i}")

    def make_block(self, name: str | None, **attributes: Any) -> Block:
        """Makes a transformer block, with the attributes of the model unless others are given."""
        return Block(
            self.num_heads,
            self.dropout,
            self.dtype,
            self.attention_kernel,
            name=name,
            **attributes,
        )

    def make_head(self) -> ClassifierHead | OrdinalHead:
        """Makes the head of the task."""
        head = OrdinalHead if self.task == "ordinal" else ClassifierHead
        return head(self.num_classes, self.dtype, name="head")


def presence(streams: Mapping[str, Tokens]) -> list[Bool[Array, " b"]]:
    """Tells which examples have each modality, from the masks of the CLS tokens."""
    return [tokens.mask[:, 0] for tokens in streams.values()]
