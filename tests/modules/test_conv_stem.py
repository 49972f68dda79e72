"""The convolutional stem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sft

from sft_jax import ModalitySpec
from sft_jax.config import ModelConfig
from sft_jax.modules.conv_stem import ConvStem
from sft_jax.modules.factory import build_model


@pytest.mark.parametrize(
    ("lengths", "patch_sizes"), [((24,), (4,)), ((23,), (6,)), ((5, 7), (2, 3))]
)
def test_padding_has_no_effect_on_real_tokens(lengths, patch_sizes):
    stem, random = ConvStem(patch_sizes, 4), np.random.default_rng(0)
    count = ModalitySpec(lengths, 2, patch_sizes).num_tokens
    values = random.normal(size=(1, *lengths, 2)).astype(np.float32)
    mask = np.ones((1, *lengths), bool)
    variables = tiny_sft.normal_variables(stem, jnp.asarray(values), jnp.asarray(mask))
    whole = stem.apply(variables, jnp.asarray(values), jnp.asarray(mask))
    assert whole.values.shape == (1, count, 8)
    assert whole.mask.all()
    short = patch_sizes[0] * 2
    cut = stem.apply(variables, jnp.asarray(values[:, :short]), jnp.asarray(mask[:, :short]))
    mask[:, short:] = False
    padded = stem.apply(variables, jnp.where(mask[..., None], values, 0), jnp.asarray(mask))
    np.testing.assert_array_equal(padded.mask[:, : cut.mask.shape[1]], cut.mask)
    assert not padded.mask[:, cut.mask.shape[1] :].any()
    real = padded.values[:, : cut.mask.shape[1]]
    np.testing.assert_allclose(real, cut.values, rtol=1e-5, atol=1e-5)
    assert not np.allclose(real, whole.values[:, : cut.mask.shape[1]])


def test_the_stem_is_built_by_name_with_the_patches_of_its_modality():
    modalities = {"sound": ModalitySpec(40, 1, 10), "words": ModalitySpec(5, 1, 1, "tokens", 9)}
    config = ModelConfig(width=8, num_heads=2, n_post=1, tokenizers={"sound": "conv"})
    model = build_model(config, modalities, 2)
    assert model.tokenizers["sound"] == ConvStem((10,))
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())["params"]
    embed = shapes["tokenizer_sound"]["embed"]
    assert {name: own["kernel"].shape for name, own in embed.items()} == {
        "conv_0": (11, 1, 32),
        "conv_1": (5, 32, 64),
    }
    wrong = ModelConfig(tokenizers={"words": "conv"})
    with pytest.raises(ValueError, match="words is of kind tokens; allowed are series, image"):
        build_model(wrong, modalities, 2)
