"""Options of the pairs of AV-MNIST."""

from __future__ import annotations

import dataclasses
import math

from sft_jax.data.sets.av_mnist.spoken_digits import SAMPLE_RATE
from sft_jax.data.sets.base import SPLITS

SIZE = 28  # pixels
FRAME, HOP, BANDS = 256, 128, 32
_BLANKED = 0.75  # Share of the patches in the harder variant.


@dataclasses.dataclass(frozen=True)
class AvMnistOptions:
    """Weakness of the images, noise of the speech, and number of pairs.

    Attributes:
      energy: Least share of the variance of the training images that the kept principal
        components carry, above 0 and at most 1. MNIST's first 3 carry 23 %, 4 carry 28 %.
      blanked_share: Share of the 49 patches of 4 x 4 pixels that are set to 0, from 0 to 1. The
        patches are chosen anew for each image.
      snr_db: Lowest and highest ratio of speech to noise; see `noisy_speech.mix`. Each value
        between them is equally likely.
      window_seconds: Length of a sound, a whole number of samples at 8 kHz.
      babble_voices: Number of recordings that make up the babble.
      train_pairs, valid_pairs, test_pairs: Number of examples in each split; by default one
        for each image. A smaller number takes the first of these examples.
      seed: Seed of all random numbers, 0 to 2^32 - 1.

    Raises:
      ValueError: If a field is outside these limits.
    """

    energy: float = 0.25
    blanked_share: float = 0.0
    snr_db: tuple[float, float] = (-14.0, 6.0)
    window_seconds: float = 1.04
    babble_voices: int = 4
    train_pairs: int | None = None
    valid_pairs: int | None = None
    test_pairs: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        samples = self.window_seconds * SAMPLE_RATE
        lowest, highest = self.snr_db
        rules = {
            "energy": (0 < self.energy <= 1, "above 0 and at most 1"),
            "blanked_share": (0 <= self.blanked_share <= 1, "from 0 to 1"),
            "snr_db": (
                math.isfinite(lowest) and math.isfinite(highest) and lowest <= highest,
                "two finite numbers, the lower first",
            ),
            "window_seconds": (
                math.isfinite(samples)
                and abs(samples - round(samples)) < 1e-6
                and samples >= FRAME,
                f"at least {FRAME / SAMPLE_RATE:g} and a multiple of {1 / SAMPLE_RATE:g}",
            ),
            "babble_voices": (self.babble_voices >= 1, "at least 1"),
            "seed": (0 <= self.seed < 2**32, "from 0 to 2^32 - 1"),
        }
        for split in SPLITS:
            pairs = getattr(self, f"{split}_pairs")
            rules[f"{split}_pairs"] = (pairs is None or pairs >= 1, "None or at least 1")
        for field, (good, allowed) in rules.items():
            if not good:
                raise ValueError(f"{field}={getattr(self, field)!r} must be {allowed}")

    @property
    def window(self) -> int:
        """Returns the length of a sound in samples."""
        return round(self.window_seconds * SAMPLE_RATE)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of the examples of each modality: pixels, and frames by bands."""
        frames = 1 + (self.window - FRAME) // HOP
        return {"image": (SIZE, SIZE, 1), "sound": (frames, BANDS, 1)}

    @property
    def variant(self) -> str:
        """Returns an identifier that is unique to these options.

        It begins with `full` or `blanked` (three quarters of the patches). The name and value of
        every other field that differs from its default follow, as in `full_train_pairs_8000`.
        """
        fields = {field.name: field.default for field in dataclasses.fields(self)}
        name = "full"
        if self.blanked_share == _BLANKED:
            name, fields["blanked_share"] = "blanked", _BLANKED
        for field, default in fields.items():
            value = getattr(self, field)
            if value != default:
                values = value if isinstance(value, tuple) else (value,)
                name += "_".join(["", field, *map(_identifier, values)])
        return name


def _identifier(value: float) -> str:
    text = repr(int(value) if value == int(value) else value)
    return text.replace("-", "minus").replace("+", "").replace(".", "p")


DEFAULT = AvMnistOptions()
"""Options with every field at its default."""
