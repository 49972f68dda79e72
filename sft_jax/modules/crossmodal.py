"""The Multimodal Transformer, MulT (Tsai et al. 2019, arXiv 1906.00295)."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from sft_jax.modules.attention import cross_attention
from sft_jax.modules.linear import layer_norm, linear
from sft_jax.modules.multimodal import MultimodalClassifier
from sft_jax.structs import AnyArray, Tokens


class CrossmodalLayer(nn.Module):
    """Tokens attend to those of a source, then pass through an MLP of four times the width.

    Pre-norm: `x <- x + drop(Attention(LN_a(x), LN_a(y), LN_a(y)))`, with one layer norm for
    target `x` and source `y`, then `x <- x + drop(W2 drop(relu(W1 LN_b(x))))`. Attention
    weights are dropped out too.

    Attributes:
      num_heads: attention heads.
      dropout: rate.
      dtype: of the computation; None for that of inputs and parameters.
    """

    num_heads: int
    dropout: float = 0.0
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, tokens: Tokens, source: Tokens, *, train: bool = False) -> Tokens:
        """Maps `tokens` to tokens of the same shape and mask.

        In an example whose source is masked throughout, attention adds its output bias only.
        """
        drop = nn.Dropout(self.dropout, deterministic=not train)
        width = tokens.values.shape[-1]
        norm = layer_norm(self.dtype, "attention_norm")
        to, of = norm(tokens.values), source.replace(values=norm(source.values))
        attended = cross_attention(to, of, self.num_heads, self.dtype, drop)
        values = tokens.values + drop(attended)
        hidden = self._xavier(4 * width, "mlp_in")(layer_norm(self.dtype, "mlp_norm")(values))
        hidden = self._xavier(width, "mlp_out")(drop(nn.relu(hidden)))
        return tokens.replace(values=values + drop(hidden))

    def _xavier(self, features: int, name: str) -> nn.Dense:
        init = nn.initializers.xavier_uniform()
        return nn.Dense(features, dtype=self.dtype, kernel_init=init, name=name)


class CrossmodalTransformer(MultimodalClassifier):
    """Each modality attends to each other one, in a stack of layers for every ordered pair.

    In stack `x_with_y` the tokens of modality `x` pass through `n_pre` layers whose keys and
    values are the tokens of `y` as the tokenizer made them, whatever the layer. For `m`
    modalities, what the `m - 1` stacks of `x` end with is normed and joined along the
    features, and passes through `n_post` layers of self-attention of that width. The normed
    CLS tokens of all modalities, joined, pass through a residual MLP to the head.

    As in the code of Ding et al. 2021, and unlike in that of Tsai et al., positions are
    learned, CLS rather than the last token is classified, the output norms are shared, and
    no convolution comes first; its unused sinusoidal positions are left out.

    Nothing that a mask marks as padding has any effect. A modality that is masked
    throughout an example and one that is left out of `inputs` give the same logits: as a
    target it is replaced by 0, as a source it is not attended to.

    Attributes: see `MultimodalClassifier`; at least two modalities, and `n_pre` at least 1.
    """

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if len(self.modalities) < 2:
            problems.append(f"needs at least 2 modalities, got {sorted(self.modalities)}")
        if self.n_pre == 0:
            problems.append("n_pre=0 must be at least 1: no modality would attend to another")
        return problems

    @nn.compact
    def __call__(
        self,
        inputs: Mapping[str, AnyArray],
        masks: Mapping[str, AnyArray] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b c"]:
        """Computes the logits; arguments as those of `SparseFusionTransformer`."""
        masks = self._check(inputs, masks)
        streams = self._tokenize_all(inputs, masks)
        present = {name: masks[name].any(axis=1) for name in streams}
        like = next(iter(streams.values())).values
        nothing = Tokens(jnp.zeros_like(like[:, :1]), jnp.zeros((*like.shape[:1], 1), bool))
        sources = {
            name: tokens.replace(mask=tokens.mask & present[name][:, None])
            for name, tokens in streams.items()
        }
        width = (len(self.modalities) - 1) * self.width
        cross_norm = layer_norm(self.dtype, "cross_norm")
        self_norm = layer_norm(self.dtype, "self_norm")
        last = []
        for target in sorted(self.modalities):
            if target not in streams:
                last.append(jnp.zeros((like.shape[0], width), like.dtype))
                continue
            crossed = [
                cross_norm(
                    self._cross_stack(
                        target, source, streams[target], sources.get(source, nothing), train=train
                    ).values
                )
                for source in sorted(set(self.modalities) - {target})
            ]
            tokens = streams[target].replace(values=jnp.concatenate(crossed, axis=-1))
            for i in range(self.n_post):
                tokens = self._layer(f"self_{target}_{i}")(tokens, tokens, train=train)
            cls = self_norm(tokens.values[:, 0])
            last.append(jnp.where(present[target][:, None], cls, 0))
        joined = jnp.concatenate(last, axis=-1)
        self.sow("intermediates", "joined", joined)
        size = joined.shape[-1]
        hidden = nn.relu(linear(size, size, self.dtype, "mlp_in")(joined))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        token = joined + linear(size, size, self.dtype, "mlp_out")(hidden)
        self.sow("intermediates", "cls", token)
        return self._head()(token)

    def _cross_stack(
        self, target: str, source: str, tokens: Tokens, others: Tokens, *, train: bool
    ) -> Tokens:
        """`n_pre` layers of `target` attending to `source`."""
        for i in range(self.n_pre):
            layer = self._layer(f"cross_{target}_with_{source}_{i}")
            tokens = layer(tokens, others, train=train)
        return tokens

    def _layer(self, name: str) -> CrossmodalLayer:
        return CrossmodalLayer(self.num_heads, self.dropout, self.dtype, name=name)
