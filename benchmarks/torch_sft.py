"""The authors' SFT in PyTorch, to measure ours against.

Written from a description of their computation, not from their code. The parameters have the
authors' names, so that a `state_dict` fits. The work is theirs too, attention weights that nothing
uses included. Dropout is 0, as in their runs. Tensors inside the network are
`[tokens, batch, width]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOTS = ("rgb", "spec", "text")
"""The authors' names of the three modalities, whatever their data."""


@dataclasses.dataclass(frozen=True)
class Pooling:
    """Pooling of the tokens of one modality.

    Attributes:
      kind: `max`, over windows of `kernel` tokens that begin every `kernel` tokens; or
        `attn_topk`, which keeps the `k` most salient tokens.
      kernel: Number of tokens of a window of `max`.
      padding: Number of tokens of -infinity that `max` adds at both ends.
      k: Number of tokens that `attn_topk` keeps.
    """

    kind: Literal["max", "attn_topk"]
    kernel: int = 1
    padding: int = 0
    k: int = 1

    def __call__(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Pools.

        Args:
          tokens: Tokens without CLS, `[n, b, width]`.
          weights: Attention weights from queries to keys, CLS first, `[b, n + 1, n + 1]`.

        Returns:
          The kept tokens, `[tokens, b, width]`.
        """
        if self.kind == "max":
            features = tokens.permute(1, 2, 0)
            pooled = functional.max_pool1d(features, self.kernel, self.kernel, self.padding)
            return pooled.permute(2, 0, 1)
        saliency = weights[:, 1:, 1:].mean(dim=1)
        index = saliency.topk(self.k, dim=1).indices.T
        return tokens.gather(0, index[:, :, None].expand(-1, -1, tokens.shape[2]))


class Tokenizer(nn.Module):
    """Projection, CLS and learned positions: `[b, n, features]` to `[n + 1, b, width]`."""

    def __init__(self, length: int, features: int, width: int) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, length + 1, width))
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.proj = nn.Linear(features, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Makes tokens."""
        cls = self.cls_token.expand(inputs.shape[0], -1, -1)
        tokens = torch.cat([cls, self.proj(inputs)], dim=1) + self.pos_embedding
        return tokens.transpose(0, 1)


class SeparateAttention(nn.Module):
    """Dense self-attention with separate projections, which also returns the weights.

    fairseq's "sparse" attention runs the same function of PyTorch for dense attention.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (
            nn.Linear(width, width) for _ in range(4)
        )
        for projection in (self.k_proj, self.v_proj, self.q_proj):
            nn.init.xavier_uniform_(projection.weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `[n, b, width]`, and the weights `[b, n, n]`, averaged over heads."""
        return functional.multi_head_attention_forward(
            tokens, tokens, tokens,
            embed_dim_to_check=tokens.shape[2],
            num_heads=self.num_heads,
            in_proj_weight=None,
            in_proj_bias=torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=self.out_proj.weight,
            out_proj_bias=self.out_proj.bias,
            training=self.training,
            need_weights=True,
            use_separate_proj_weight=True,
            q_proj_weight=self.q_proj.weight,
            k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight,
        )  # fmt: skip


class Network(nn.Module):
    """Network from the tokens of the modalities to logits."""

    def __init__(
        self,
        pools: Sequence[Pooling],
        num_classes: int,
        width: int,
        num_heads: int,
        n_pre: int,
        n_post: int,
    ) -> None:
        super().__init__()
        self.pools = tuple(pools)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        for stack, count in [*((slot, n_pre) for slot in SLOTS), ("fused", n_post)]:
            attentions = [nn.MultiheadAttention(width, num_heads) for _ in range(count)]
            setattr(self, f"attns_{stack}", nn.ModuleList(attentions))
            setattr(self, f"mlps_{stack}", nn.ModuleList(_mlp(width) for _ in range(count)))
        self.sparse_attn = nn.ModuleList(SeparateAttention(width, num_heads) for _ in SLOTS)
        self.classifier = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """Logits, `[b, num_classes]`, from the tokens of each modality, `[n, b, width]`."""
        cls, pooled = [], []
        for slot, tokens, attention, pool in zip(
            SLOTS, streams, self.sparse_attn, self.pools, strict=True
        ):
            tokens = self._blocks(slot, tokens)
            attended, weights = attention(self.norm(tokens))
            tokens = tokens + attended
            cls.append(tokens[:1])
            pooled.append(pool(tokens[1:], weights))
        fused = torch.cat([cls[0] + cls[1] + cls[2], *pooled])
        return self.classifier(self._blocks("fused", fused)[0])

    def _blocks(self, stack: str, tokens: Tensor) -> Tensor:
        attentions, mlps = getattr(self, f"attns_{stack}"), getattr(self, f"mlps_{stack}")
        for attention, mlp in zip(attentions, mlps, strict=True):
            normed = self.norm(tokens)
            # The authors compute the weights and their mean over heads, though nothing uses them.
            attended, _ = attention(normed, normed, normed)
            tokens = tokens + attended
            tokens = tokens + mlp(tokens)
        return tokens


class TorchSft(nn.Module):
    """Classifies examples of three modalities.

    Args:
      lengths: Number of steps of each modality in the order of `SLOTS`, without padding.
      features: Number of features at each step.
      pools: Pooling of each modality.
      num_classes: Number of logits.
      width: Number of features of a token.
      num_heads: Number of heads of every attention.
      n_pre: Number of blocks on each modality.
      n_post: Number of blocks on the fused tokens.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        features: Sequence[int],
        pools: Sequence[Pooling],
        num_classes: int,
        *,
        width: int = 40,
        num_heads: int = 5,
        n_pre: int = 1,
        n_post: int = 11,
    ) -> None:
        super().__init__()
        for slot, *shape in zip(SLOTS, lengths, features, strict=True):
            setattr(self, f"{slot}_tokenizer", Tokenizer(*shape, width))
        self.network = Network(pools, num_classes, width, num_heads, n_pre, n_post)

    @classmethod
    def from_golden(cls, config: Mapping[str, Any], arrays: Mapping[str, Any]) -> TorchSft:
        """Makes the float64 model of a file of golden arrays, with its parameters.

        Args:
          config: Value of the file's `config_json`.
          arrays: All arrays of the file.
        """
        pools = [
            Pooling(config["pool_type"], kernel, padding, config["pool_k"])
            for kernel, padding in zip(config["kernel_sz"], config["padding"], strict=True)
        ]
        model = cls(
            config["lens"],
            config["dims"],
            pools,
            config["n_classes"],
            width=config["embed_dim"],
            num_heads=config["n_heads"],
            n_pre=config["n_layers_pre_fusion"],
            n_post=config["n_layers_post_fusion"],
        )
        state = {
            name.removeprefix("param/"): torch.from_numpy(array)
            for name, array in arrays.items()
            if name.startswith("param/")
        }
        model.load_state_dict(state)
        return model.double()

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits, `[b, num_classes]`, from the inputs of each modality, `[b, length, features]`."""
        streams = [
            getattr(self, f"{slot}_tokenizer")(values)
            for slot, values in zip(SLOTS, inputs, strict=True)
        ]
        return self.network(streams)


def make_optimizer(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """The authors' AdamW, which decays no weights."""
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Sequence[Tensor], labels: Tensor
) -> Tensor:
    """Takes a step on the mean cross-entropy, with gradients clipped to a norm of 0.8."""
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(inputs), labels)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.8)
    optimizer.step()
    return loss.detach()


def _mlp(width: int) -> nn.Sequential:
    # The positions are the authors' names of the parameters; they put dropout before the ReLU.
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, width),
        nn.Dropout(0.0),
        nn.ReLU(),
        nn.Linear(width, width),
    )
