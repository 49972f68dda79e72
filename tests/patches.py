"""Patches cut one position at a time, for comparison."""

import itertools

import numpy as np


def by_hand(values, mask, patch_sizes):
    """The values `[b, n, prod(patch_sizes) * f]` and mask `[b, n]` of the patches."""
    batch, *lengths, features = values.shape
    counts = [-(-n // size) for n, size in zip(lengths, patch_sizes, strict=True)]
    corners = list(itertools.product(*map(range, counts)))
    cut = np.zeros((batch, len(corners), *patch_sizes, features), values.dtype)
    real = np.zeros((batch, len(corners)), bool)
    for example, (token, corner) in itertools.product(range(batch), enumerate(corners)):
        for offset in itertools.product(*map(range, patch_sizes)):
            place = tuple(np.multiply(corner, patch_sizes) + offset)
            if np.less(place, lengths).all() and mask[(example, *place)]:
                cut[(example, token, *offset)] = values[(example, *place)]
                real[example, token] = True
    return cut.reshape(batch, len(corners), -1), real
