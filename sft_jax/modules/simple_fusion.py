"""Simple ways to fuse modalities: at the end, at the start, or not at all.

They are the baselines of Ding et al. 2021 (arXiv 2111.11992), section 4. They use the same
tokenizers, blocks and head as the Sparse Fusion Transformer, with `n_pre + n_post` blocks.
Each is correct by default; an option reproduces the authors' code, defects included.

Padding has no effect. Masking a modality throughout an example and leaving it out of `inputs`
give the same logits.
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

    Each modality passes through `n_pre + n_post` blocks of its own, and a shared head classifies
    its CLS. The logits are `mean_m head(cls_m)` over the modalities that an example has, so that
    a missing modality does not make a prediction less confident. Without any modality they are 0.

    Attributes:
      faithful: Whether to reproduce the authors' code: CLS is duplicated after the first block,
        and the logits are summed.

    See `MultimodalClassifier` for the other attributes.
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

    The token sequences, each with its CLS first, are concatenated in the order of the modality
    names. They pass through `n_pre + n_post` shared blocks, in which every real token attends
    to every other. The head classifies the mean of the CLS tokens of the modalities that an
    example has. The tokens of absent modalities, CLS included, are masked. Without any modality,
    the head classifies a token of 0.

    Attributes:
      reference_windows: The authors' fixed windows, to reproduce their code; None for no pooling.
        After the first block, the first CLS is kept. All other tokens, including the other CLS
        tokens, are max-pooled within these windows, which may span two modalities. The head
        classifies the first CLS. The authors use the windows made for the first modality. The
        first CLS takes part even if its modality is absent, and shorter inputs are padded, so
        that the windows do not move.

    See `MultimodalClassifier` for the other attributes.
    """

    reference_windows: ReferenceWindows | None = None

    @property
    def joint_from(self) -> int:
        """First layer, since every layer sees the tokens of all modalities."""
        return 0

    @property
    def shared_from(self) -> int | None:
        """First layer if the first CLS is classified, which is always present; else None."""
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
            # The CLS of a modality is real where the example has the modality, also after mixup.
            cls = mean_over_present(
                [tokens.values[:, start] for start in starts],
                [tokens.mask[:, start] for start in starts],
            )
        self.sow("intermediates", "cls", cls)
        return self.make_head()(cls)

    def _with_absent(self, streams: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """Pads all modalities to their full length, and marks the first CLS as real."""
        batch = next(iter(streams.values())).mask.shape[0]
        filled = {}
        for name, spec in sorted(self.modalities.items()):
            if name in streams:
                tokens = streams[name]
            else:
                # One step of padding stands for a modality that is left out.
                padding = jnp.zeros((batch, 1, *spec.shape[1:]))
                tokens = self._tokenize(name, padding, jnp.zeros(padding.shape[:-1], bool))
            filled[name] = self._fill(name, tokens)
        name, tokens = next(iter(filled.items()))
        filled[name] = tokens.replace(mask=tokens.mask.at[:, 0].set(True))
        return filled


class Unimodal(MultimodalClassifier):
    """Classifies one modality and ignores the others.

    The tokens of the modality pass through `n_pre + n_post` blocks, and the head classifies their
    CLS. For an example without the modality the logits are 0, as in `LateFusion`.

    Attributes:
      modality: Name of the modality; optional if there is only one.
      reference_windows: The authors' fixed windows, to reproduce their code; None for no pooling.
        The tokens other than CLS are max-pooled within these windows after `n_pre` blocks. The
        authors use the windows made for the first modality for every modality.

    See `MultimodalClassifier` for the other attributes. Only this modality has parameters.
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
    """Keeps the first token, and max-pools the others within windows."""
    rest = Tokens(tokens.values[:, 1:], tokens.mask[:, 1:])
    return join(first_tokens(tokens), window_max(rest, windows(rest.mask)))
