"""The Sparse Fusion Transformer (Ding et al. 2021, arXiv 2111.11992)."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from sft_jax.modules.attention import SelfAttention
from sft_jax.modules.block import Block
from sft_jax.modules.inputs import check_inputs, check_modalities
from sft_jax.modules.linear import bounded_uniform, layer_norm, linear
from sft_jax.modules.reducer import POOLS, WINDOWED_POOLS, Reducer
from sft_jax.modules.tokenizer import Tokenizer
from sft_jax.ops.attention import saliency
from sft_jax.ops.windows import ReferenceWindows
from sft_jax.structs import AnyArray, ModalitySpec, Pool, Tokens

_LEAST = {"num_classes": 1, "width": 1, "num_heads": 1, "n_pre": 0, "n_post": 0}


class SparsePooling(nn.Module):
    """Self-attention over one modality, then pooling of its tokens to a few.

    Attributes:
      num_heads: attention heads.
      pool: see `Reducer`.
      k: tokens kept.
      reference_windows: see `Reducer`.
      dropout: rate, of the residual branch.
      dtype: of the computation.
    """

    num_heads: int
    pool: Pool
    k: int
    reference_windows: ReferenceWindows | None = None
    dropout: float = 0.0
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, tokens: Tokens, *, train: bool = False
    ) -> tuple[Float[Array, "b d"], Tokens]:
        """Takes tokens with CLS first; returns CLS and the pooled others."""
        width = tokens.values.shape[-1]
        normed = layer_norm(self.dtype, "attention_norm", affine=False)(tokens.values)
        attended, weights = SelfAttention(
            self.num_heads,
            self.dtype,
            # As the authors' attention here, unlike that of their blocks, is initialised.
            qkv_bias_init=bounded_uniform(width**-0.5),
            out_kernel_init=nn.initializers.xavier_uniform(),
            name="attention",
        )(tokens.replace(values=normed))
        values = tokens.values + nn.Dropout(self.dropout, deterministic=not train)(attended)
        received = saliency(weights, tokens.mask)
        self.sow("intermediates", "attended", values)
        self.sow("intermediates", "saliency", received)
        reducer = Reducer(self.pool, self.k, self.reference_windows, name="reducer")
        others = Tokens(values[:, 1:], tokens.mask[:, 1:])
        return values[:, 0], reducer(others, received, train=train)


class SparseFusionTransformer(nn.Module):
    """Classifies examples of one or more modalities from a few tokens of each.

    Each modality is tokenized and passes through `n_pre` blocks of its own and one more
    self-attention; its tokens are then pooled to `k`. The sum of the modalities' CLS tokens
    and all pooled tokens pass through `n_post` shared blocks, and the CLS is classified.

    Nothing that a mask marks as padding has any effect. A modality that is masked
    throughout an example, or that is left out of `inputs`, adds nothing to its CLS sum and
    no pooled token: the two give the same logits.

    Attributes:
      num_classes: classes.
      modalities: name to shape of each modality.
      width: features of a token.
      num_heads: attention heads; must divide `width`.
      n_pre: blocks on each modality before pooling.
      n_post: blocks on the fused tokens.
      pool: how tokens are cut down; see `Reducer`.
      k: tokens kept of each modality, in all or by name; no effect with pool `none`.
      dropout: rate inside blocks and pooling.
      embedding_std: standard deviation that CLS and positions are initialised with. 1 is
        the authors'; where the place of a token in the sequence says little, a smaller one
        lets what the token holds count from the start.
      reference_windows: by name, the authors' fixed windows in place of adaptive ones.
      dtype: of the computation; None for that of inputs and parameters. Parameters are
        float32, and the logits are never less than float32.

    Raises (on `init` and `apply`):
      ValueError: for an attribute out of range or an input of the wrong name or shape.
    """

    num_classes: int
    modalities: Mapping[str, ModalitySpec]
    width: int = 40
    num_heads: int = 5
    n_pre: int = 1
    n_post: int = 11
    pool: Pool = "attn_topk"
    k: int | Mapping[str, int] = 4
    dropout: float = 0.0
    embedding_std: float = 1.0
    reference_windows: Mapping[str, ReferenceWindows] | None = None
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        inputs: Mapping[str, AnyArray],
        masks: Mapping[str, AnyArray] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b c"]:
        """Computes the logits.

        Args:
          inputs: modality name to `[b, length, features]` floats; `length` may be less
            than the modality's, never more.
          masks: modality name to `[b, length]` booleans, False for padding; a modality
            without an entry has no padding.
          train: applies dropout, drawn from the random stream "dropout", and has the
            random pools draw from the stream "pool" rather than always the same tokens.

        Returns:
          `[b, num_classes]` logits. Applied with `mutable=["intermediates"]` and
          `capture_intermediates=True`, every tensor on the way can be had as well.
        """
        self._check_attributes()
        masks = check_inputs(self.modalities, inputs, masks or {}, every=self.is_initializing())
        block = functools.partial(Block, self.num_heads, self.dropout, self.dtype)

        summed_cls: jax.Array | float = 0.0
        pooled = []
        # Sorted, so that neither parameters nor logits depend on the order of the mapping.
        for name in sorted(inputs):
            tokens = Tokenizer(
                self.modalities[name],
                self.width,
                self.embedding_std,
                self.dtype,
                name=f"tokenizer_{name}",
            )(jnp.asarray(inputs[name]), masks[name])
            for i in range(self.n_pre):
                tokens = block(name=f"unimodal_{name}_{i}")(tokens, train=train)
            cls, kept = SparsePooling(
                pool=self.pool,
                k=self._kept_tokens()[name],
                reference_windows=(self.reference_windows or {}).get(name),
                num_heads=self.num_heads,
                dropout=self.dropout,
                dtype=self.dtype,
                name=f"pooling_{name}",
            )(tokens, train=train)
            present = masks[name].any(axis=1)
            summed_cls += jnp.where(present[:, None], cls, 0)
            pooled.append(kept)

        cls = jnp.asarray(summed_cls)[:, None]
        real = jnp.ones((cls.shape[0], 1), bool)
        tokens = Tokens(
            jnp.concatenate([cls, *(kept.values for kept in pooled)], axis=1),
            jnp.concatenate([real, *(kept.mask for kept in pooled)], axis=1),
        )
        self.sow("intermediates", "fused_input", tokens)
        for i in range(self.n_post):
            tokens = block(name=f"fused_{i}")(tokens, train=train)
        self.sow("intermediates", "cls", tokens.values[:, 0])
        return ClassifierHead(self.num_classes, self.dtype, name="head")(tokens.values[:, 0])

    def example_inputs(self) -> dict[str, Float[Array, "1 _ _"]]:
        """Zeros of the right shapes, to initialise from."""
        return {
            name: jnp.zeros((1, spec.length, spec.features))
            for name, spec in self.modalities.items()
        }

    def _kept_tokens(self) -> Mapping[str, int]:
        return dict.fromkeys(self.modalities, self.k) if isinstance(self.k, int) else self.k

    def _check_attributes(self) -> None:
        check_modalities(self.modalities)
        problems = [
            f"{name}={getattr(self, name)} must be at least {least}"
            for name, least in _LEAST.items()
            if getattr(self, name) < least
        ]
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout={self.dropout} must be at least 0 and below 1")
        if self.embedding_std <= 0:
            problems.append(f"embedding_std={self.embedding_std} must be above 0")
        if self.num_heads >= 1 and self.width % self.num_heads:
            problems.append(f"num_heads={self.num_heads} does not divide width={self.width}")
        if self.pool not in POOLS:
            problems.append(f"pool={self.pool!r} is not one of {', '.join(POOLS)}")
        if unknown := sorted(set(fixed := self.reference_windows or {}) - set(self.modalities)):
            problems.append(
                f"reference_windows names {unknown}, the modalities are {sorted(self.modalities)}"
            )
        if set(kept := self._kept_tokens()) != set(self.modalities):
            problems.append(f"k names {sorted(kept)}, the modalities are {sorted(self.modalities)}")
        elif self.pool != "none":
            problems += [
                f"k={kept[name]} for modality {name!r}, which has {spec.num_tokens} tokens"
                f" to choose from: k must be from 1 to {spec.num_tokens}"
                for name, spec in self.modalities.items()
                if (name not in fixed or self.pool not in WINDOWED_POOLS)
                and not 1 <= kept[name] <= spec.num_tokens
            ]
        if problems:
            raise ValueError("SparseFusionTransformer: " + "; ".join(problems))


class ClassifierHead(nn.Module):
    """Layer norm and a linear layer, from a token to logits.

    Attributes:
      num_classes: classes.
      dtype: of the computation.
    """

    num_classes: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, token: Float[Array, "b d"]) -> Float[Array, "b c"]:
        """Returns logits, in float32 at least."""
        normed = layer_norm(self.dtype, "norm")(token)
        logits = linear(token.shape[-1], self.num_classes, self.dtype, "classifier")(normed)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
