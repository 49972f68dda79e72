"""Sequences whose items are made when they are asked for."""

import pytest

from sft_jax.data.view import View


def test_items_are_made_when_asked_for():
    positions = []
    view = View(4, lambda i: positions.append(i) or 10 * i)
    assert len(view) == 4
    assert (view[1], view[-1], view[1:3]) == (10, 30, [10, 20])
    assert positions == [1, 3, 1, 2]
    assert [*view] == [0, 10, 20, 30]


def test_a_position_outside_is_an_index_error():
    for position in (2, -3):
        with pytest.raises(IndexError):
            View(2, str)[position]
