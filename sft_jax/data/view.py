"""A sequence whose items are made on access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class View(Sequence[T]):
    """Sequence of the values of a function of the position."""

    def __init__(self, count: int, item: Callable[[int], T]) -> None:
        """Stores the function without making any item.

        Args:
          count: Number of items.
          item: Function from a position, 0 to `count - 1`, to the item at that position.
        """
        self._positions, self._item = range(count), item

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, position: int) -> T: ...

    @overload
    def __getitem__(self, position: slice) -> list[T]: ...

    def __getitem__(self, position: int | slice) -> T | list[T]:
        chosen = self._positions[position]
        return [*map(self._item, chosen)] if isinstance(chosen, range) else self._item(chosen)
