"""The simple ways to fuse modalities: at the end, at the start, or not at all.

They are the baselines of Ding et al. 2021 (arXiv 2111.11992), section 4, made of the same
tokenizers, blocks and head as the Sparse Fusion Transformer, with `n_pre + n_post` blocks.
Each is right by default; an option reproduces the authors' code, defects included.

Nothing that a mask marks as padding has any effect. A modality that is masked throughout
an example and one that is left out of `inputs` give the same logits.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sft_jax.modules.multimodal import (
    MultimodalClassifier,
    join,
    mean_over_present,
    sum_over_present,
)
from sft_jax.ops.mixup import Mixup
from sft_jax.ops.pool.reduce import window_max
from sft_jax.ops.pool.windows import ReferenceWindows
from sft_jax.structs import AnyArray, Tokens


class LateFusion(MultimodalClassifier):
    """Classifies each modality alone and averages the logits.

    Each modality passes through `n_pre + n_post` blocks of its own; one head, shared,
    classifies its CLS. `logits = mean_m head(cls_m)` over the modalities that an example
    has, so that having fewer does not make a prediction less sure; without any, they are 0.

    Attributes:
      faithful: compute what the authors' code does: CLS is duplicated after the first
        block, and the logits are summed.

    See `MultimodalClassifier` for the others.
    """

    faithful: bool = False

    @nn.compact
    def __call__(
        self,
        inputs: Mapping[str, AnyArray],
        masks: Mapping[str, AnyArray] | None = None,
        *,
        train: bool = False,
        mixup: Mixup | None = None,
    ) -> Float[Array, "b c"]:
        """Computes the logits; arguments as those of `SparseFusionTransformer`."""
        masks = self._check(inputs, masks)
        streams, present = self._streams(inputs, masks)
        for i in range(self.n_pre + self.n_post):
            streams = self._unimodal_blocks(i, streams, train=train)
            if self.faithful and i == 0:
                streams = {name: join(_first(of), of) for name, of in streams.items()}
            if mixup is not None:
                streams, present = mixup.streams(i, streams, present)
        fuse = sum_over_present if self.faithful else mean_over_present
        return fuse(self._classify_each(streams), list(present.values()))


class ConcatFusion(MultimodalClassifier):
    """One transformer over the tokens of all modalities: dense, early fusion.

    The token sequences, each with its CLS first, are concatenated in the order of their
    names and pass through `n_pre + n_post` shared blocks, in which every real token attends
    to every other. The head classifies the mean of the CLS tokens of the modalities that an
    example has. The tokens of the others, CLS included, are masked; without any modality,
    the head classifies a token of 0.

    Attributes:
      reference_windows: compute what the authors' code does: after the first block, the
        first CLS is kept and all other tokens, the other CLS tokens among them, are
        max-pooled within these windows, which straddle the borders of the modalities; the
        head classifies the first CLS. For this the authors take the windows that were made
        for the first modality. Here the first CLS takes part though its modality is absent,
        and shorter inputs are padded, so that the windows do not move.

    See `MultimodalClassifier` for the others.
    """

    reference_windows: ReferenceWindows | None = None

    @property
    def joint_from(self) -> int:
        """Every layer sees the tokens of all modalities."""
        return 0

    @property
    def shared_from(self) -> int | None:
        """Every layer where the first CLS is classified, whatever the modalities."""
        return 0 if self.reference_windows else None

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.reference_windows and self.n_pre + self.n_post < 1:
            problems.append("reference_windows pool after the first block, and there is none")
        return problems

    @nn.compact
    def __call__(
        self,
        inputs: Mapping[str, AnyArray],
        masks: Mapping[str, AnyArray] | None = None,
        *,
        train: bool = False,
        mixup: Mixup | None = None,
    ) -> Float[Array, "b c"]:
        """Computes the logits; arguments as those of `SparseFusionTransformer`."""
        windows = self.reference_windows
        masks = self._check(inputs, masks)
        if windows:
            inputs, masks = self._with_absent(inputs, masks)
        parts: list[Tokens] = []
        starts, length = [], 0
        streams, present = self._streams(inputs, masks)
        for name, tokens in streams.items():
            if windows:
                tokens = self._fill(name, tokens)
            if parts or not windows:
                tokens = tokens.replace(mask=tokens.mask & present[name][:, None])
            parts.append(tokens)
            starts.append(length)
            length += tokens.mask.shape[1]
        tokens = join(*parts)
        for i in range(self.n_pre + self.n_post):
            tokens = self._block(f"fused_{i}")(tokens, train=train)
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
        return self._head()(cls)

    def _with_absent(
        self, inputs: Mapping[str, AnyArray], masks: Mapping[str, Bool[Array, "b _ ..."]]
    ) -> tuple[dict[str, AnyArray], dict[str, Bool[Array, "b _ ..."]]]:
        """The inputs, and a step of padding for each modality left out."""
        batch = next(iter(masks.values())).shape[0]
        absent = {n: s.shape[1:] for n, s in self.modalities.items() if n not in inputs}
        zeros = {name: jnp.zeros((batch, 1, *step)) for name, step in absent.items()}
        padding = {name: jnp.zeros(step.shape[:-1], bool) for name, step in zeros.items()}
        return {**inputs, **zeros}, {**masks, **padding}


class Unimodal(MultimodalClassifier):
    """Classifies one modality, whatever else is given.

    Its tokens pass through `n_pre + n_post` blocks and the head classifies their CLS. For
    an example without that modality the logits are 0, as those of `LateFusion` are.

    Attributes:
      modality: name of the modality; may be left out where there is only one.
      reference_windows: max-pool the tokens other than CLS within these windows after
        `n_pre` blocks. The authors' code does, for every modality with the windows that
        were made for the first one. By default nothing is pooled.

    See `MultimodalClassifier` for the others. Only this modality has parameters.
    """

    modality: str | None = None
    reference_windows: ReferenceWindows | None = None

    @property
    def mixed_modalities(self) -> tuple[str, ...]:
        """The one that is classified."""
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

    @nn.compact
    def __call__(
        self,
        inputs: Mapping[str, AnyArray],
        masks: Mapping[str, AnyArray] | None = None,
        *,
        train: bool = False,
        mixup: Mixup | None = None,
    ) -> Float[Array, "b c"]:
        """Computes the logits; arguments as those of `SparseFusionTransformer`."""
        masks = self._check(inputs, masks, every=False)
        name = self._name
        if name not in inputs:
            if self.is_initializing():
                raise ValueError(f"init needs modality {name!r}, given are {sorted(inputs)}")
            batch = next(iter(masks.values())).shape[0]
            return jnp.zeros((batch, self.num_classes), jnp.float32)
        streams, present = self._streams({name: inputs[name]}, masks)
        if self.reference_windows:
            streams = {name: self._fill(name, streams[name])}
        for i in range(self.n_pre + self.n_post):
            if self.reference_windows and i == self.n_pre:
                streams = {name: pool_after_cls(streams[name], self.reference_windows)}
            streams = self._unimodal_blocks(i, streams, train=train)
            if mixup is not None:
                streams, present = mixup.streams(i, streams, present)
        cls = streams[name].values[:, 0]
        self.sow("intermediates", "cls", cls)
        return mean_over_present([self._head()(cls)], [present[name]])


def pool_after_cls(tokens: Tokens, windows: ReferenceWindows) -> Tokens:
    """Keeps the first token, and of each window over the others the maximum per feature."""
    rest = Tokens(tokens.values[:, 1:], tokens.mask[:, 1:])
    return join(_first(tokens), window_max(rest, windows(rest.mask)))


def _first(tokens: Tokens) -> Tokens:
    return Tokens(tokens.values[:, :1], tokens.mask[:, :1])
