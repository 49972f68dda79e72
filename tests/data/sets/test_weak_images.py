import numpy as np
import pytest

from sft_jax.data.sets.av_mnist.weak_images import blank_patches, fit_components, weaken


def _images(count=300, deviations=(60.0, 40.0, 20.0, 10.0)):
    """Images whose upper left pixels vary each for itself, so that the components are known."""
    images = np.full((count, 3, 4), 100, np.float64)
    rng = np.random.default_rng(0)
    for pixel, deviation in enumerate(deviations):
        images[:, 0, pixel] = 128 + deviation * np.sign(rng.permutation(count) - count / 2 + 0.5)
    return np.uint8(images)


@pytest.mark.parametrize(
    ("energy", "expected"), [(0.1, 1), (0.7, 2), (0.9, 2), (0.97, 3), (1.0, 4)]
)
def test_the_fewest_components_are_kept_that_carry_the_energy(energy, expected):
    images = _images()
    kept = fit_components(images, energy)
    values = np.linalg.svd(images.reshape(300, 12) - images.reshape(300, 12).mean(0))[1] ** 2
    shares = np.cumsum(values) / values.sum()
    assert expected == 1 + np.flatnonzero(shares >= energy - 1e-12)[0]
    assert kept.components.shape == (12, expected)
    assert kept.energy == pytest.approx(shares[expected - 1])
    np.testing.assert_allclose(kept.components.T @ kept.components, np.eye(expected), atol=1e-9)


def test_what_is_left_is_the_part_that_the_components_carry():
    images = _images()
    weak = weaken(images, fit_components(images, 0.6))
    assert weak.dtype == np.uint8
    assert weak.shape == images.shape
    flat = images.reshape(300, 12) - images.reshape(300, 12).mean(0)
    left, size, right = np.linalg.svd(flat, full_matrices=False)
    exact = images.reshape(300, 12).mean(0) + size[0] * left[:, :1] * right[:1]
    np.testing.assert_array_equal(weak.reshape(300, 12), np.rint(exact))


def test_all_components_give_the_image_back():
    images = np.random.default_rng(0).integers(0, 2, (50, 4, 4)).astype(np.uint8) * 255
    np.testing.assert_array_equal(weaken(images, fit_components(images, 1.0)), images)
    kept = fit_components(images, 0.2)
    centred = images.reshape(50, 16) - kept.mean
    unclipped = kept.mean + centred @ kept.components @ kept.components.T
    assert unclipped.min() < -1  # What would wrap around is clipped.
    weak = weaken(images, kept).reshape(50, 16)
    np.testing.assert_array_equal(weak, np.rint(unclipped).clip(0, 255))


def test_many_images_are_treated_as_few(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4)).astype(np.uint8)
    kept = fit_components(images, 0.5)
    weak = weaken(images, kept)
    monkeypatch.setattr("sft_jax.data.sets.av_mnist.weak_images._BLOCK", 7)
    again = fit_components(images, 0.5)
    np.testing.assert_array_equal(again.components, kept.components)
    np.testing.assert_array_equal(weaken(images, again), weak)


def test_equal_images_stay_as_they_are():
    images = np.full((5, 4, 4), 77, np.uint8)
    np.testing.assert_array_equal(weaken(images, fit_components(images, 0.25)), images)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 12), (0.75, 37), (1.0, 49)])
def test_the_share_of_whole_patches_is_blanked(share, count):
    image = np.arange(1, 785).reshape(28, 28).astype(np.uint16).clip(1, 255).astype(np.uint8)
    blanked = blank_patches(np.random.default_rng(0), image, share)
    assert blanked.dtype == np.uint8
    patches = (blanked == 0).reshape(7, 4, 7, 4).transpose(0, 2, 1, 3).reshape(49, 16)
    assert patches.all(1).sum() == count
    assert patches.any(1).sum() == count
    np.testing.assert_array_equal(blanked[blanked > 0], image[blanked > 0])


def test_every_patch_is_blanked_as_often():
    rng = np.random.default_rng(0)
    image = np.ones((28, 28), np.uint8)
    kept = np.mean([blank_patches(rng, image, 0.75)[::4, ::4] for _ in range(1000)], 0)
    np.testing.assert_allclose(kept, 12 / 49, atol=0.06)
