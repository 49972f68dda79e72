"""The Multimodal Transformer, MulT (Tsai et al. 2019, arXiv 1906.00295)."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from sft_jax.modules.attention import cross_attention
from sft_jax.modules.dropout import Dropout
from sft_jax.modules.linear import dense, layer_norm, linear
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.modules.remat import rematerialize
from sft_jax.ops.attention import kernels
from sft_jax.ops.attention.kernels import Kernel
from sft_jax.ops.mixup import Mixup
from sft_jax.structs import Tokens


class CrossmodalLayer(nn.Module):
    """Cross-attention to the tokens of a source, then an MLP of four times the width.

    The layer is pre-norm: `x <- x + drop(Attention(LN_a(x), LN_a(y), LN_a(y)))`, with one layer
    norm for target `x` and source `y`, then `x <- x + drop(W2 drop(relu(W1 LN_b(x))))`. Dropout
    also applies to the attention weights.

    Attributes:
      num_heads: Number of attention heads.
      dropout: Rate of dropout.
      dtype: Type of the computation; None for the type of inputs and parameters.
      kernel: Attention kernel; see `SelfAttention`.
      remat: See `sft_jax.modules.block.Block`.
    """

    num_heads: int
    dropout: float = 0.0
    dtype: Dtype | None = None
    kernel: str | Kernel = kernels.AUTO
    remat: bool = False

    @nn.compact
    def __call__(self, tokens: Tokens, source: Tokens, *, train: bool = False) -> Tokens:
        """Maps `tokens` to tokens of the same shape and mask.

        In an example whose source is fully masked, attention adds only its output bias.
        """

        def compute(layer: CrossmodalLayer, tokens: Tokens, source: Tokens) -> Tokens:
            return layer._compute(tokens, source, train=train)

        mapped: Tokens = rematerialize(compute, chosen=self.remat)(self, tokens, source)
        return mapped

    def _compute(self, tokens: Tokens, source: Tokens, *, train: bool) -> Tokens:
        width = tokens.values.shape[-1]
        drop = Dropout(self.dropout, deterministic=not train)
        norm = layer_norm(self.dtype, "attention_norm")
        queries, source = norm(tokens.values), source.replace(values=norm(source.values))
        dropped = drop if train and self.dropout else None
        attended = cross_attention(
            queries, source, self.num_heads, self.dtype, self.kernel, dropped
        )
        values = tokens.values + drop(attended)
        hidden = self._xavier(4 * width, "mlp_in")(layer_norm(self.dtype, "mlp_norm")(values))
        hidden = self._xavier(width, "mlp_out")(drop(nn.relu(hidden)))
        return tokens.replace(values=values + drop(hidden))

    def _xavier(self, features: int, name: str) -> nn.Dense:
        init = nn.initializers.xavier_uniform()
        return dense(features, self.dtype, name, kernel_init=init)


class CrossmodalTransformer(MultimodalClassifier):
    """Transformer with a stack of cross-attention for every ordered pair of modalities.

    In stack `x_with_y` the tokens of modality `x` pass through `n_pre` layers. In every layer the
    keys and values come from the tokens of `y` as its tokenizer made them. For `m` modalities,
    the results of the `m - 1` stacks of `x` are normed and joined along the features. They pass
    through `n_post` layers of self-attention of that width. The normed CLS tokens of all
    modalities are joined and pass through a residual MLP to the head.

    This follows the code of Ding et al. 2021, without its unused sinusoidal positions. It differs
    from the code of Tsai et al. Positions are learned, CLS rather than the last token is
    classified, the output norms are shared, and there is no initial convolution.

    Padding has no effect. Masking a modality throughout an example and leaving it out of `inputs`
    give the same logits. As a target such a modality is replaced by 0; as a source it is not
    attended to.

    Attributes: See `MultimodalClassifier`; at least two modalities, and `n_pre` at least 1.
    """

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if len(self.modalities) < 2:
            problems.append(f"needs at least 2 modalities, got {sorted(self.modalities)}")
        if self.mlp_ratio != 1:
            problems.append(f"mlp_ratio={self.mlp_ratio}: the MLPs have a ratio of 4 in any case")
        if self.n_pre == 0:
            problems.append("n_pre=0 must be at least 1: no modality would attend to another")
        return problems

    def compute_logits(
        self, streams: dict[str, Tokens], *, train: bool, mixup: Mixup | None
    ) -> Float[Array, "b c"]:
        """Computes the logits; see `MultimodalClassifier`."""
        # The name separates the costs of these layers from the tokenizers and the head.
        with jax.named_scope("fused"):
            token = self._fuse(streams, train=train, mixup=mixup)
        self.sow("intermediates", "cls", token)
        return self.make_head()(token)

    def _fuse(
        self, streams: dict[str, Tokens], *, train: bool, mixup: Mixup | None
    ) -> Float[Array, "b d"]:
        """Fuses the tokens of all modalities into the token that is classified."""
        like = next(iter(streams.values())).values
        streams = self._cross_stacks(streams, train=train, mixup=mixup)
        for i in range(self.n_post):
            for name, tokens in streams.items():
                streams[name] = self._layer(f"self_{name}_{i}")(tokens, tokens, train=train)
            if mixup is not None:
                streams = mixup.streams(self.n_pre + i, streams)
        norm = layer_norm(self.dtype, "self_norm")
        absent = jnp.zeros((like.shape[0], (len(self.modalities) - 1) * self.width), like.dtype)
        last = [
            jnp.where(streams[name].mask[:, :1], norm(streams[name].values[:, 0]), 0)
            if name in streams
            else absent
            for name in sorted(self.modalities)
        ]
        joined = jnp.concatenate(last, axis=-1)
        self.sow("intermediates", "joined", joined)
        size = joined.shape[-1]
        hidden = nn.relu(linear(size, size, self.dtype, "mlp_in")(joined))
        hidden = Dropout(self.dropout, deterministic=not train)(hidden)
        return joined + linear(size, size, self.dtype, "mlp_out")(hidden)

    def _cross_stacks(
        self, sources: Mapping[str, Tokens], *, train: bool, mixup: Mixup | None
    ) -> dict[str, Tokens]:
        """Runs the stacks of each modality, and joins their results along the features.

        Mixup also mixes the sources: later layers attend to the sources of the mixed example.
        """
        values = next(iter(sources.values())).values
        nothing = Tokens(jnp.zeros_like(values[:, :1]), jnp.zeros((values.shape[0], 1), bool))
        stacks = {
            name: {other: sources[name] for other in sorted(set(self.modalities) - {name})}
            for name in sources
        }
        for i in range(self.n_pre):
            for name, stack in stacks.items():
                for other, tokens in stack.items():
                    layer = self._layer(f"cross_{name}_with_{other}_{i}")
                    stack[other] = layer(tokens, sources.get(other, nothing), train=train)
            if mixup is not None:
                sources = mixup.streams(i, sources)
                for name, stack in stacks.items():
                    for other, tokens in stack.items():
                        stack[other] = mixup.streams(i, {name: tokens})[name]
        norm = layer_norm(self.dtype, "cross_norm")
        joined = {
            name: jnp.concatenate([norm(tokens.values) for tokens in stack.values()], axis=-1)
            for name, stack in stacks.items()
        }
        return {name: sources[name].replace(values=values) for name, values in joined.items()}

    def _layer(self, name: str) -> CrossmodalLayer:
        return CrossmodalLayer(
            self.num_heads,
            self.dropout,
            self.dtype,
            self.attention_kernel,
            self.remat,
            name=name,
        )
