"""Draws of training examples with equal numbers of every class."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence

import numpy as np


class BalancedDraws:
    """Function from a place in the stream of examples to a position in the split.

    The classes take turns, so that each has the same number of draws in an epoch, up to one. A
    class goes through its examples in random order, and begins again in another order. An example
    of a rare class is so drawn several times in an epoch, and one of a frequent class not always.

    A draw depends on its arguments and the seed alone, so it needs no state.
    """

    def __init__(self, classes: Sequence[int] | np.ndarray, seed: int) -> None:
        """Groups the examples by class; classes without examples take no turn.

        Args:
          classes: Class of each example.
          seed: Seed of the order.
        """
        array = np.asarray(classes)
        self._count, self._seed = len(array), seed
        self._members = [np.flatnonzero(array == label) for label in np.unique(array)]
        self._order = functools.lru_cache(maxsize=1024)(self._draw_order)

    def __call__(self, index: int, slot: int) -> int:
        """Returns the position of the example to draw.

        Args:
          index: Place in the stream, over all epochs.
          slot: Place in the turns of the epoch; each occurs once.
        """
        draw = index // self._count * self._count + slot
        turn, group = divmod(int(draw), len(self._members))
        members = self._members[group]
        round_, place = divmod(turn, len(members))
        return int(members[self._order(group, round_)[place]])

    def _draw_order(self, group: int, round_: int) -> np.ndarray:
        random = np.random.RandomState([self._seed, zlib.crc32(b"sampling"), group, round_])
        return random.permutation(len(self._members[group]))
