"""Examples, made block by block from a seed, with the positions of their events."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from sft_jax.data.sets.base import SPLITS

MODALITIES = ("left", "right")
DISTRACTOR_FEATURES = 8
"""Number of features that distractors alone have."""

BLOCK = 256
"""Number of examples that are made together."""


@dataclasses.dataclass(frozen=True)
class Planting:
    """Settings of the examples.

    Attributes:
      events: Number of events of an example.
      bits: Number of bits of the value of an event.
      length: Number of tokens of a sequence.
      flip: Probability that a planted value is replaced by another.
      lean: Amount by which agreement is likelier than 1/2 for odd values, and less likely for
        even ones.
      loudness: Norm of a distractor, as a multiple of the norm of a planted token.
      seed: Seed of all random numbers.
    """

    events: int
    bits: int
    length: int
    flip: float
    lean: float
    loudness: float
    seed: int

    @property
    def shape(self) -> tuple[int, int]:
        """Returns the shape of a sequence.

        An event has features of its own: one that marks it, and one for each bit.
        """
        return self.length, self.events * (1 + self.bits) + DISTRACTOR_FEATURES


@dataclasses.dataclass(frozen=True)
class Block:
    """Examples that are made together.

    Attributes:
      agree: Labels, True where both modalities were meant to have the same value.
      values: Planted values, 0 to `2^bits - 1`, of each modality.
      positions: Token of each event, for each modality.
      tokens: Sequences of each modality.
    """

    agree: Bool[np.ndarray, "n events"]
    values: dict[str, Int[np.ndarray, "n events"]]
    positions: dict[str, Int[np.ndarray, "n events"]]
    tokens: dict[str, Float[np.ndarray, "n length features"]]


def make_block(planting: Planting, split: str, number: int, size: int = BLOCK) -> Block:
    """Makes the examples of a block.

    Args:
      planting: Settings.
      split: Name of the split.
      number: Number of the block within its split.
      size: Number of examples.
    """
    rng = np.random.default_rng([planting.seed, SPLITS.index(split), number])
    shape, count = (size, planting.events), 2**planting.bits
    meant = rng.integers(count, size=shape)
    agree = rng.random(shape) < 0.5 + planting.lean * np.where(meant % 2, 1, -1)
    partner = np.where(agree, meant, _another(rng, meant, count))
    values, positions, tokens = {}, {}, {}
    for name, own in zip(MODALITIES, (meant, partner), strict=True):
        replaced = rng.random(shape) < planting.flip
        values[name] = np.where(replaced, _another(rng, own, count), own)
        order = rng.random((size, planting.length)).argsort(axis=1)
        positions[name] = order[:, : planting.events]
        tokens[name] = _sequences(planting, rng, values[name], positions[name])
    return Block(agree, values, positions, tokens)


def planted_positions(
    planting: Planting, split: str, size: int
) -> dict[str, Int[np.ndarray, "n events"]]:
    """Positions of the events in the first examples of a split.

    Args:
      planting: Settings.
      split: Name of the split.
      size: Number of examples.

    Returns:
      Modality name to the token of each event, in the order of the labels.
    """
    blocks = [make_block(planting, split, i).positions for i in range(-(-size // BLOCK))]
    return {name: np.concatenate([own[name] for own in blocks])[:size] for name in MODALITIES}


def _another(rng: np.random.Generator, values: np.ndarray, count: int) -> np.ndarray:
    """Draws for each value one of the others, all equally likely."""
    return (values + rng.integers(1, count, size=values.shape)) % count


def _sequences(
    planting: Planting, rng: np.random.Generator, values: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    size, events = values.shape
    tokens = np.zeros((size, *planting.shape), np.float32)
    noise = rng.normal(size=(size, planting.length, DISTRACTOR_FEATURES))
    noise /= np.linalg.norm(noise, axis=-1, keepdims=True)
    norm = planting.loudness * (1 + planting.bits) ** 0.5
    tokens[..., -DISTRACTOR_FEATURES:] = norm * noise
    signs = 2 * ((values[..., None] >> np.arange(planting.bits)) & 1) - 1
    own = np.concatenate([np.ones((size, events, 1)), signs], axis=-1)
    planted = own[:, :, None] * np.eye(events)[:, :, None]
    planted = np.pad(planted.reshape(size, events, -1), ((0, 0), (0, 0), (0, DISTRACTOR_FEATURES)))
    tokens[np.arange(size)[:, None], positions] = planted
    return tokens
