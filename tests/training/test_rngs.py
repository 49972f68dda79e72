import jax
import pytest

from sft_jax.training.rngs import stream


@pytest.mark.parametrize("other", [(1, "dropout", 3), (0, "params", 3), (0, "dropout", 4)])
def test_streams_differ_by_seed_name_and_step(other):
    draw = jax.random.bits(stream(0, "dropout", 3))
    assert draw == jax.random.bits(stream(0, "dropout", 3))
    assert draw != jax.random.bits(stream(*other))
