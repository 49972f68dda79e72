"""Base class of all models: attributes, checks, tokens and the head."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

import flax.core
import flax.linen as nn
import jax
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
from sft_jax.structs import AnyArray, MatmulPrecision, ModalitySpec, Task, Tokens

_LEAST = {
    "num_classes": 1,
    "width": 1,
    "num_heads": 1,
    "mlp_ratio": 1,
    "n_pre": 0,
    "n_post": 0,
    "parts": 1,
    "tokenizer_stride": 1,
}


class MultimodalClassifier(nn.Module):
    """Base class of the models; each defines its own `compute_logits`.

    A custom model derives from this class, and computes logits from tokens:

        class MyFusion(MultimodalClassifier):
            def compute_logits(self, streams, *, train, mixup):
                ...

    Other modules interpret the names of submodules. `sft_jax.profile` groups costs by the
    outermost name that is `head` or starts with `tokenizer_`, `unimodal_`, `pooling_` or `fused`.
    Everything else counts as `other`. `sft_jax.parallel.sharding.RULES` divides parameters over
    devices by the names of their layers, `qkv`, `out`, `mlp_in` and `mlp_out`. Other parameters
    are divided over the `fsdp` axis alone, or replicated on each device.

    Attributes:
      num_classes: Number of outputs: classes, labels, or numbers to predict.
      modalities: Shape of each modality by name.
      width: Number of features of a token.
      num_heads: Number of attention heads; must divide `width`.
      n_pre: Number of blocks before fusion.
      n_post: Number of blocks from fusion on.
      dropout: Rate of dropout inside blocks.
      embedding_std: Standard deviation of the initial CLS and positions. The authors use 1. A
        smaller value lets the content of a token count from the start, which helps where its
        position in the sequence says little.
      dtype: Type of the computation; None for the type of inputs and parameters. Parameters are
        float32, and the logits are never less than float32.
      attention_kernel: Name of a kernel of `sft_jax.ops.attention.kernels`, or a kernel. It
        changes only the cost.
      mlp_ratio: Width of the hidden layer of a block's MLP, in widths of a token. MulT has always
        4, and takes no other.
      remat: Whether the gradient computes each block once more, so that training stores less
        (`sft_jax.modules.remat`). It changes only the cost.
      matmul_precision: Precision of products of float32: default, high or highest, as in
        `jax.lax.Precision`. By default TPUs round the factors to bfloat16 and GPUs to TF32.
        `highest` is as exact as float32 everywhere.
      parts: Number of groups that a batch is cut into if sequences have more than 128 tokens. The
        groups pass through each block before fusion in turn, which trades time for memory and
        does not change the results (`sft_jax.modules.batch_groups`).
      task: Meaning of the outputs, called logits everywhere. They are logits of a softmax for
        single_label and of sigmoids for multi_label, log-probabilities for ordinal
        (`OrdinalHead`), and predicted numbers for regression. Some models average logits over
        modalities, for every task; for ordinal this gives a normalised geometric mean of the
        probabilities. Some give 0 without any modality, also as the prediction of a regression.
      tokenizers: Modules that make the tokens of some modalities, by name, in place of patches:
        see `sft_jax.modules.tokenizer.Tokenizer`. Each modality has a copy of its own.
      tokenizer_stride: Stride whose larger patches the kernels of the tokenizers are for; those of
        the model's patches are derived from them (`sft_jax.modules.stride`).

    Raises (on `init` and `apply`):
      ValueError: If an attribute is out of range, or an input has the wrong name or shape.
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
    tokenizer_stride: int = 1
    mlp_ratio: int = 1
    remat: bool = False
    matmul_precision: MatmulPrecision = "default"

    def __post_init__(self) -> None:
        # A static argument of jax.jit must be hashable, and a model with a dict is not.
        for field in dataclasses.fields(self):
            value = getattr(self, field.name, None)
            if isinstance(value, Mapping):
                object.__setattr__(self, field.name, flax.core.freeze(value))
        # The name of a type equals the type but has another hash.
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
          inputs: `[b, *lengths, features]` floats by modality. The first length may be less than
            the modality's, but not more; the others must equal the modality's.
          masks: `[b, *lengths]` booleans by modality, False for padding. A modality without an
            entry has no padding.
          train: Whether to apply dropout, drawn from the random stream "dropout". In training the
            random pools draw from the stream "pool". In evaluation they select the same tokens
            every time, unless that stream is given.
          mixup: Draw of mixup, which mixes the output of one block between examples. The blocks
            of a modality are layers 0 to `n_pre - 1`; the fused blocks are layers `n_pre` and up.

        Returns:
          `[b, num_classes]` logits; 0 where none of `mixed_modalities` is in `inputs`. With
          `mutable=["intermediates"]` and `capture_intermediates=True`, `apply` also returns every
          intermediate tensor.
        """
        with self._products():
            streams = self._make_streams(inputs, masks)
            if not streams:
                batch = next(iter(inputs.values())).shape[0]
                return jnp.zeros((batch, self.num_classes), jnp.float32)
            return self.compute_logits(streams, train=train, mixup=mixup)

    def compute_logits(
        self, streams: dict[str, Tokens], *, train: bool, mixup: Mixup | None
    ) -> Float[Array, "b c"]:
        """Computes the logits from the tokens of the modalities; each model implements it.

        Args:
          streams: Tokens of each modality of `inputs`, CLS first, in the order of the names. In
            an example without the modality all of its tokens are masked, CLS included. A model
            that respects the masks of tokens and CLS needs no other special case.
          train: Whether to train, as in `__call__`.
          mixup: Draw of mixup, as in `__call__`. The model passes the output of block `i` of every
            modality to `mixup.streams(i, streams)`, and the output of fused block `i` to
            `mixup.fused(i, tokens)`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no compute_logits")

    @property
    def mixed_modalities(self) -> tuple[str, ...]:
        """Names of the modalities that the logits depend on, which mixup mixes."""
        return tuple(sorted(self.modalities))

    @property
    def joint_from(self) -> int:
        """First layer whose tokens are not of a single modality."""
        return self.n_pre

    @property
    def shared_from(self) -> int | None:
        """First layer where every example has the token that is classified; see `Mixup`."""
        return None

    def example_inputs(self) -> dict[str, Float[Array, "1 _ ... _"]]:
        """Makes zeros of the right shapes, for initialisation."""
        return {name: jnp.zeros((1, *spec.shape)) for name, spec in self.modalities.items()}

    def _products(self) -> contextlib.AbstractContextManager[object]:
        """Context in which products have the precision of the model."""
        if self.matmul_precision in ("high", "highest"):
            return jax.default_matmul_precision(self.matmul_precision)
        # The caller may have set another default.
        return contextlib.nullcontext()

    def _problems(self) -> list[str]:
        """Lists all problems of the attributes; subclasses add their own."""
        problems = [
            f"{name}={getattr(self, name)} must be at least {least}"
            for name, least in _LEAST.items()
            if getattr(self, name) < least
        ]
        if self.task not in get_args(Task):
            problems.append(f"task={self.task!r} is not one of {', '.join(get_args(Task))}")
        if self.task == "ordinal" and self.num_classes == 1:
            problems.append("num_classes=1 must be at least 2 for task='ordinal'")
        if self.matmul_precision not in get_args(MatmulPrecision):
            problems.append(
                f"matmul_precision={self.matmul_precision!r} is not one of"
                f" {', '.join(get_args(MatmulPrecision))}"
            )
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
        # Initialisation creates the parameters of all modalities that the model uses.
        required = self.mixed_modalities if self.is_initializing() else ()
        # The inputs are sorted, so that the program does not depend on the order of the mapping.
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
            # The copy has no parent yet, so that the tokenizer can adopt and name it.
            embed = embed.clone(parent=None, name=None, _deep_clone=True, _reset_names=True)
        tokenizer = Tokenizer(
            self.modalities[name],
            self.width,
            self.embedding_std,
            self.dtype,
            embed,
            self.tokenizer_stride,
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
        """Classifies the CLS of each modality with a shared head."""
        head = self.make_head()
        logits = []
        for tokens in streams.values():
            self.sow("intermediates", "cls", tokens.values[:, 0])
            logits.append(head(tokens.values[:, 0]))
        return logits

    def _fill(self, name: str, tokens: Tokens) -> Tokens:
        """Pads tokens to the modality's full length, since fixed windows count positions."""
        short = self.modalities[name].num_tokens + 1 - tokens.mask.shape[1]
        return Tokens(
            jnp.pad(tokens.values, ((0, 0), (0, short), (0, 0))),
            jnp.pad(tokens.mask, ((0, 0), (0, short))),
        )

    def _unimodal_block(self, modality: str, i: int) -> Block:
        """Makes block `i` for the tokens of one modality."""
        return self.make_block(f"unimodal_{modality}_{i}")

    def make_block(self, name: str | None, **attributes: Any) -> Block:
        """Makes a transformer block with the model's attributes; `attributes` override them."""
        return Block(
            self.num_heads,
            self.dropout,
            self.dtype,
            self.attention_kernel,
            mlp_ratio=self.mlp_ratio,
            remat=self.remat,
            name=name,
            **attributes,
        )

    def make_head(self) -> ClassifierHead | OrdinalHead:
        """Makes the head for the task."""
        head = OrdinalHead if self.task == "ordinal" else ClassifierHead
        return head(self.num_classes, self.dtype, name="head")


def presence(streams: Mapping[str, Tokens]) -> list[Bool[Array, " b"]]:
    """Returns which examples have each modality, from the masks of the CLS tokens."""
    return [tokens.mask[:, 0] for tokens in streams.values()]
