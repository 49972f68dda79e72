"""Images made harder to recognise: few principal components, and patches blanked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_BLOCK = 5000  # Number of images held in float64 at a time.


class PrincipalComponents(NamedTuple):
    """The leading principal components of a set of images.

    Attributes:
      mean: `[pixels]` float64, the mean image.
      components: `[pixels, components]` float64 with orthonormal columns.
      energy: Share of the variance that the components carry.
    """

    mean: np.ndarray
    components: np.ndarray
    energy: float


def fit_components(images: np.ndarray, energy: float) -> PrincipalComponents:
    """Finds the fewest principal components that carry a share of the variance.

    The variance is summed over the pixels, about the mean image. It is computed from sums of
    whole numbers, so the order of summation does not matter.

    Args:
      images: `[images, height, width]` uint8, at least one.
      energy: Least share, above 0 and at most 1.
    """
    count, pixels = len(images), images[0].size
    total, products = np.zeros(pixels), np.zeros((pixels, pixels))
    for start in range(0, count, _BLOCK):
        block = images[start : start + _BLOCK].reshape(-1, pixels).astype(np.float64)
        total += block.sum(axis=0)
        products += block.T @ block
    mean = total / count
    variances, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    carried = np.cumsum(np.maximum(variances[::-1], 0))
    shares = carried / carried[-1] if carried[-1] > 0 else np.ones(pixels)
    needed = 1 + int(np.argmax(shares >= energy))
    return PrincipalComponents(mean, vectors[:, : -needed - 1 : -1], float(shares[needed - 1]))


def weaken(images: np.ndarray, kept: PrincipalComponents) -> np.ndarray:
    """Projects each image onto the components, then rounds and clips to 0 to 255.

    Args:
      images: `[images, height, width]` uint8.
      kept: Mean image and components.

    Returns:
      An array of the same shape, uint8.
    """
    weak = np.empty_like(images)
    for start in range(0, len(images), _BLOCK):
        part = slice(start, start + _BLOCK)
        centred = images[part].reshape(-1, len(kept.mean)) - kept.mean
        pixels = kept.mean + (centred @ kept.components) @ kept.components.T
        weak[part] = np.clip(np.rint(pixels), 0, 255).reshape(weak[part].shape)
    return weak


def blank_patches(
    rng: np.random.Generator, image: np.ndarray, share: float, patch: int = 4
) -> np.ndarray:
    """Sets randomly chosen patches of an image to 0, on a regular grid.

    Args:
      rng: Generator that chooses the patches.
      image: `[height, width]` uint8, both multiples of `patch`.
      share: Share of the patches, 0 to 1; their number is rounded, so 0.75 of 49 is 37.
      patch: Height and width of a patch.

    Returns:
      An array of the same shape, uint8.
    """
    height, width = image.shape[0] // patch, image.shape[1] // patch
    kept = np.ones(height * width, np.uint8)
    kept[np.argsort(rng.random(kept.size))[: round(share * kept.size)]] = 0
    return image * np.kron(kept.reshape(height, width), np.ones((patch, patch), np.uint8))
