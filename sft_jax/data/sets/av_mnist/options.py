"""How the pairs of AV-MNIST are made."""

from __future__ import annotations

import dataclasses
import math

from sft_jax.data.sets.av_mnist.spoken_digits import SAMPLE_RATE
from sft_jax.data.sets.base import SPLITS

SIZE = 28  # pixels
FRAME, HOP, BANDS = 256, 128, 32
_BLANKED = 0.75  # share of the patches in the harder variant


@dataclasses.dataclass(frozen=True)
class AvMnistOptions:
    """How the images are weakened, what noise the speech is in, and how many pairs there are.

    Attributes:
      energy: the fewest principal components are kept that carry this share of the variance
        of the training images, above 0 and at most 1. MNIST's first 3 carry 23 %, 4 carry 28 %.
      blanked_share: of the 49 patches of 4 x 4 pixels of an image, how many are 0, from 0 to 1;
        others in each image.
      snr_db: lowest and highest ratio of speech to noise, see `noisy_speech.mix`; each value
        between them is equally likely.
      window_seconds: length of a sound, a whole number of samples at 8 kHz.
      babble_voices: of how many recordings the babble is made.
      train_pairs, valid_pairs, test_pairs: number of examples of each split; by default one
        for each image. Fewer are the first of them.
      seed: of all that is random, 0 to 2^32 - 1.

    Raises:
      ValueError: if a field is not within these limits.
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
        """Length of a sound in samples."""
        return round(self.window_seconds * SAMPLE_RATE)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Modality to the shape of its examples: pixels, and frames by bands."""
        frames = 1 + (self.window - FRAME) // HOP
        return {"image": (SIZE, SIZE, 1), "sound": (frames, BANDS, 1)}

    @property
    def variant(self) -> str:
        """An identifier that other options do not have.

        It is `full` or `blanked` (three quarters of the patches), followed by the name and
        value of every other field that is not at its default, such as `full_train_pairs_8000`.
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
"""The published set, as far as it is known."""
