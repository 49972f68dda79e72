"""Simple ways to fuse modalities: at the end, at the start, or not at all.

They are the baselines of Ding et al. 2021 (arXiv 2111.11992), section 4, made of the same
tokenizers, blocks and head as the Sparse Fusion Transformer, with `n_pre + n_post` blocks.
Each is correct by default; an option reproduces the authors' code, defects included.

Padding has no effect. A modality that is masked throughout an example and one that is left out of
`inputs` give the same logits.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from sft_jax.modules.multimodal import MultimodalClassifier, presence
from sft_jax.ops.mixup import Mixup
from sft_jax.ops.modalities import first_tokens, join, mean_over_present, sum_over_present
from sft_jax.ops.pool.reduce import window_max
from sft_jax.ops.pool.windows import ReferenceWindows
from sft_jax.structs import Tokens


class LateFusion(MultimodalClassifier):
    """Late fusion: classifies each modality alone and averages the logits.

    Each modality passes through `n_pre + n_post` blocks of its own; one head, shared,
    classifies its CLS. `logits = mean_m head(cls_m)` over the modalities that an example
    has, so that having fewer does not make a prediction less sure; without any, they are 0.

    Attributes:
      faithful: Whether to compute what the authors' code does: CLS is duplicated after the first
        block, and the logits are summed.

    See `MultimodalClassifier` for the others.
    """

    faithful: bool = False

    def compute_logits(
        self, streams: dict[str, Tokens], *, train: bool, mixup: Mixup | None
    ) -> Float[Array, "b c"]:
        """Computes the logits; see `MultimodalClassifier`."""
        for i in range(self.n_pre + self.n_post):
            streams = self.unimodal_blocks(i, streams, train=train)
            if self.faithful and i == 0:
                streams = {n: join(first_tokens(tokens), tokens) for n, tokens in streams.items()}
            if mixup is not None:
                streams = mixup.streams(i, streams)
        fuse = sum_over_present if self.faithful else mean_over_present
        return fuse(self._classify_each(streams), presence(streams))


class ConcatFusion(MultimodalClassifier):
    """One transformer over the tokens of all modalities: dense, early fusion.

    The token sequences, each with its CLS first, are concatenated in the order of their names.
    They pass through `n_pre + n_post` shared blocks, in which every real token attends
    to every other. The head classifies the mean of the CLS tokens of the modalities that an
    example has. The tokens of the others, CLS included, are masked; without any modality,
    the head classifies a token of 0.

    Attributes:
      reference_windows: The authors' fixed windows, to compute what their code does; None for no
        pooling. After the first block, the first CLS is kept. All other tokens, the other CLS
        tokens among them, are max-pooled within these windows, which straddle the borders of the
        modalities. The head classifies the first CLS. For this the authors take the windows that
        were made for the first modality. Here the first CLS takes part even if its modality is
        absent, and shorter inputs are padded, so that the windows do not move.

    See `MultimodalClassifier` for the others.
    """

    reference_windows: ReferenceWindows | None = None

    @property
    def joint_from(self) -> int:
        """First layer: every layer sees the tokens of all modalities."""
        return 0

    @property
    def shared_from(self) -> int | None:
        """First layer where the first CLS is classified, whatever the modalities."""
        return 0 if self.reference_windows else None

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.reference_windows and self.n_pre + self.n_post < 1:
            problems.append("reference_windows pool after the first block, and there is none")
        return problems

    def compute_logits(
        self, streams: dict[str, Tokens], *, train: bool, mixup: Mixup | None
    ) -> Float[Array, "b c"]:
        """Computes the logits; see `MultimodalClassifier`."""
        windows = self.reference_windows
        if windows:
            streams = self._with_absent(streams)
        lengths = [tokens.mask.shape[1] for tokens in streams.values()]
        starts = [0, *itertools.accumulate(lengths[:-1])]
        tokens = join(*streams.values())
        for i in range(self.n_pre + self.n_post):
            tokens = self.make_block(f"fused_{i}")(tokens, train=train)
            if windows and i == 0:
                tokens = pool_after_cls(tokens, windows)
            if mixup is not None:
                tokens = mixup.fused(i, tokens)
        if windows:
            cls = tokens.values[:, 0]
        else:
            # The CLS of a modality is real where the example, mixed or not, has it.
            cls = mean_over_present(
                [tokens.values[:, start] for start in starts],
                [tokens.mask[:, start] for start in starts],
            )
        self.sow("intermediates", "cls", cls)
        return self.make_head()(cls)

    def _with_absent(self, streams: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """Fills all modalities up to their full length; the first CLS is real in any case."""
        batch = next(iter(streams.values())).mask.shape[0]
        filled = {}
        for name, spec in sorted(self.modalities.items()):
            if name in streams:
                tokens = streams[name]
            else:
                # One step of padding stands for a modality left out.
                padding = jnp.zeros((batch, 1, *spec.shape[1:]))
                tokens = self._tokenize(name, padding, jnp.zeros(padding.shape[:-1], bool))
            filled[name] = self._fill(name, tokens)
        name, tokens = next(iter(filled.items()))
        filled[name] = tokens.replace(mask=tokens.mask.at[:, 0].set(True))
        return filled


class Unimodal(MultimodalClassifier):
    """Classifies one modality and ignores the others.

    Its tokens pass through `n_pre + n_post` blocks and the head classifies their CLS. For
    an example without that modality the logits are 0, as those of `LateFusion` are.

    Attributes:
      modality: Name of the modality; may be left out where there is only one.
      reference_windows: Windows within which the tokens other than CLS are max-pooled after
        `n_pre` blocks. The authors' code does so, for every modality with the windows that
        were made for the first one. By default nothing is pooled.

    See `MultimodalClassifier` for the others. Only this modality has parameters.
    """

    modality: str | None = None
    reference_windows: ReferenceWindows | None = None

    @property
    def mixed_modalities(self) -> tuple[str, ...]:
        """Name of the modality that is classified."""
        return (self._name,)

    @property
    def _name(self) -> str:
        return self.modality or next(iter(self.modalities))

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.modality not in self.modalities and (self.modality or len(self.modalities) > 1):
            problems.append(
                f"modality={self.modality!r} is not one of {', '.join(sorted(self.modalities))}"
            )
        return problems

    def compute_logits(
        self, streams: dict[str, Tokens], *, train: bool, mixup: Mixup | None
    ) -> Float[Array, "b c"]:
        """Computes the logits; see `MultimodalClassifier`."""
        name, windows = self._name, self.reference_windows
        if windows:
            streams = {name: self._fill(name, streams[name])}
        for i in range(self.n_pre + self.n_post):
            if windows and i == self.n_pre:
                streams = {name: pool_after_cls(streams[name], windows)}
            streams = self.unimodal_blocks(i, streams, train=train)
            if mixup is not None:
                streams = mixup.streams(i, streams)
        return mean_over_present(self._classify_each(streams), presence(streams))


def pool_after_cls(tokens: Tokens, windows: ReferenceWindows) -> Tokens:
    """Keeps the first token, and of each window over the others the maximum per feature."""
    rest = Tokens(tokens.values[:, 1:], tokens.mask[:, 1:])
    return join(first_tokens(tokens), window_max(rest, windows(rest.mask)))
