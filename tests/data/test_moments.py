import numpy as np

from sft_jax.data.moments import Moments


def test_parts_add_up_to_the_whole_in_float64():
    values = np.random.default_rng(0).normal(1000, 0.01, (500, 3)).astype(np.float32)
    parts = [values[:1], values[1:1], values[1:300], values[300:]]
    total = Moments.from_values(parts[0])
    for part in parts[1:]:
        total += Moments.from_values(part)
    exact = values.astype(np.longdouble)
    assert total.count == 500
    np.testing.assert_allclose(total.mean, exact.mean(0).astype(float), rtol=1e-14)
    np.testing.assert_allclose(total.std, exact.std(0).astype(float), rtol=1e-9)


def test_nothing_adds_nothing():
    empty = Moments.from_values(np.zeros((0, 2)))
    assert (empty + empty).count == 0
    some = Moments.from_values(np.ones((2, 2)))
    np.testing.assert_array_equal((empty + some).mean, some.mean)
    np.testing.assert_array_equal((some + empty).squares, some.squares)


def test_features_are_along_the_last_axis():
    image = np.arange(24.0).reshape(3, 4, 2)
    moments = Moments.from_values(image)
    assert moments.count == 12
    np.testing.assert_allclose(moments.mean, image.mean((0, 1)))
    np.testing.assert_allclose(moments.std, image.std((0, 1)))


def test_json_keeps_every_digit():
    moments = Moments.from_values(np.random.default_rng(1).normal(size=(7, 3)))
    again = Moments.from_json(moments.to_json())
    assert again.count == moments.count
    np.testing.assert_array_equal(again.mean, moments.mean)
    np.testing.assert_array_equal(again.squares, moments.squares)
