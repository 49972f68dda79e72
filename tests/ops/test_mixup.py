"""Mixup of hidden states: partners, shares, and the shares of labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sft_jax import Tokens
from sft_jax.ops.mixup import Mixup, draw_mixup, mix_tokens

NAMES = ("sight", "sound", "touch")


def _draw(seed=0, batch=512, **options):
    defaults = {"alpha": 0.3, "layers": (0, 4), "joint_from": 2}
    return draw_mixup(jax.random.key(seed, impl="rbg"), batch, NAMES, **defaults | options)


@functools.cache
def _draws(**options):
    """Layers, shares and labels' shares of 64 draws."""
    everyone = dict.fromkeys(NAMES, jnp.ones(8, bool))

    @jax.jit
    @jax.vmap
    def draw(seed):
        mixup = _draw(seed, batch=8, **options)
        return mixup.layer, mixup.shares, mixup.label_share(everyone)

    return jax.device_get(draw(jnp.arange(64)))


def test_every_example_is_the_partner_of_one():
    assert sorted(_draw().partner.tolist()) == list(range(512))


def test_shares_are_of_the_beta_distribution():
    share = np.asarray(_draw(batch=20000).shares["sight"])
    assert ((share >= 0) & (share <= 1)).all()
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    # Of Beta(a, a): 1 / (4 (2 a + 1)).
    assert share.var() == pytest.approx(1 / (4 * 1.6), abs=0.005)


def test_every_layer_of_the_range_is_drawn_and_no_other():
    for (first, end), expected in (((0, 4), {0, 1, 2, 3}), ((2, 4), {2, 3})):
        layers, _, _ = _draws(layers=(first, end))
        assert set(layers.tolist()) == expected


@pytest.mark.parametrize("consistent", [True, False])
def test_joint_layers_have_one_share(consistent):
    layers, shares, _ = _draws(consistent=consistent)
    equal = np.array([(shares["sight"] == share).all(axis=1) for share in shares.values()])
    joint = layers >= 2
    assert equal[:, joint].all() == consistent
    assert not equal[1:, ~joint].any()


def test_a_static_share_is_that_of_every_modality():
    _, shares, _ = _draws(per_modality=False)
    for share in shares.values():
        np.testing.assert_array_equal(share, shares["sight"])


@pytest.mark.parametrize("consistent", [True, False])
def test_6_fused_features_and_labels_have_the_same_share(consistent):
    # Row 6 of the authors' defects: False is their way.
    _, shares, labels = _draws(layers=(2, 4), consistent=consistent)
    assert np.allclose(labels, shares["sight"], atol=1e-6) == consistent
    np.testing.assert_allclose(labels, sum(shares.values()) / 3, atol=1e-6)


def _mixup(shares, layer=0, partner=(1, 0)):
    return Mixup(
        jnp.asarray(partner),
        {name: jnp.asarray(share, jnp.float32) for name, share in shares.items()},
        jnp.asarray(layer),
    )


def test_a_label_counts_as_its_modalities_do():
    # The second example has no sound.
    present = {"sight": jnp.asarray([True, True]), "sound": jnp.asarray([True, False])}
    mixup = _mixup({"sight": [0.7, 0.7], "sound": [0.6, 0.6]})
    # The first keeps its sound whole; the second has none, as it decides.
    np.testing.assert_allclose(mixup.label_share(present), [(0.7 + 1) / 2, 0.7])
    mixup = _mixup({"sight": [0.3, 0.3], "sound": [0.4, 0.4]})
    # The first loses its sound, as its partner decides; the second gets it whole.
    np.testing.assert_allclose(mixup.label_share(present), [0.3, (0.3 + 0) / 2])


def test_labels_have_a_share_without_modality_or_layer():
    nothing = dict.fromkeys(("sight", "sound"), jnp.zeros(2, bool))
    mixup = _mixup({"sight": [0.7, 0.7], "sound": [0.5, 0.5]})
    np.testing.assert_allclose(mixup.label_share(nothing), [0.6, 0.6])
    np.testing.assert_array_equal(mixup.replace(layer=jnp.asarray(-1)).label_share(nothing), [1, 1])


def _swapped(array):
    return array[::-1]


def test_tokens_that_one_of_two_lacks_are_not_mixed():
    tokens = Tokens(
        jnp.asarray([[1.0, 1, 1], [5, 5, jnp.nan]])[..., None],
        jnp.asarray([[True, False, True], [True, True, False]]),
    )
    share = jnp.asarray([0.75, 0.25])  # Both times the first decides.
    mixed = mix_tokens(tokens, share, _swapped)
    assert mixed.mask.tolist() == [[True, False, True], [True, False, True]]
    np.testing.assert_allclose(mixed.values[mixed.mask][:, 0], [2, 1, 2, 1])


def test_tokens_of_an_absent_modality_are_not_mixed_in():
    tokens = Tokens(jnp.asarray([[1.0], [5.0]])[..., None], jnp.asarray([[True], [False]]))
    for share, decides in ((0.75, [0, 1]), (0.25, [1, 0])):
        mixed = mix_tokens(tokens, jnp.full(2, share), _swapped)
        assert mixed.mask.ravel().tolist() == [i == 0 for i in decides]
        assert mixed.values[mixed.mask].tolist() == [[1]]


def test_sizes_are_mixed_as_tokens_are():
    sizes = jnp.asarray([[2.0], [4.0]])
    tokens = Tokens(jnp.zeros((2, 1, 1)), jnp.ones((2, 1), bool), sizes)
    mixed = mix_tokens(tokens, jnp.full(2, 0.75), _swapped)
    np.testing.assert_allclose(mixed.sizes, [[2.5], [3.5]])
