"""Models of larger patches, and their parameters made from those of the smallest."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import patches
import pytest
import tiny_baselines
import tiny_sft

from sft_jax import ModalitySpec, ReferenceWindows, Tokens
from sft_jax.modules.learned_pools import TokenLearner
from sft_jax.modules.stride import resize_params, with_stride
from sft_jax.modules.tokenizer import Tokenizer
from sft_jax.ops.pool import Pool

# Lengths that patches and strides divide, and others; an axis of a single patch.
SIZES = [
    ((12,), (2,), 2),
    ((11,), (2,), 4),
    ((7,), (1,), 3),
    ((6, 7), (2, 1), 3),
    ((5, 3), (1, 3), 2),
    ((3, 5, 4), (1, 2, 1), 2),
]


def _alone(spec):
    return tiny_baselines.make("unimodal", modality="m", modalities={"m": spec})


def _group_means(array, axes, strides):
    """Mean over groups along some axes, one group at a time; the last may have fewer."""
    counts = [-(-array.shape[axis] // s) for axis, s in zip(axes, strides, strict=True)]
    rest = [n for axis, n in enumerate(array.shape) if axis not in axes]
    means = np.zeros((*counts, *rest))
    for place in itertools.product(*map(range, counts)):
        within = [slice(None)] * array.ndim
        for axis, i, s in zip(axes, place, strides, strict=True):
            within[axis] = slice(i * s, (i + 1) * s)
        means[place] = array[tuple(within)].mean(axis=tuple(axes))
    return np.moveaxis(means, [*range(len(counts))], axes)


@pytest.mark.parametrize(("lengths", "patch_sizes", "stride"), SIZES)
def test_tokens_are_those_of_averaged_values(lengths, patch_sizes, stride):
    spec = ModalitySpec(lengths, 2, patch_sizes)
    model = _alone(spec)
    params = tiny_baselines.variables(model)["params"]
    larger = with_stride(model, stride).modalities["m"]
    own = resize_params(model, params, stride)["tokenizer_m"]
    random = np.random.default_rng(0)
    values = random.normal(size=(3, *lengths, 2)).astype(np.float32)
    mask = random.random((3, *lengths)) < 0.7
    values[~mask] = np.nan
    mask[0], values[0] = True, 1.0
    tokens = Tokenizer(larger, model.width).apply(
        {"params": own}, jnp.asarray(values), jnp.asarray(mask)
    )

    grid = [-(-n // p) for n, p in zip(lengths, patch_sizes, strict=True)]
    strides = [stride if count > 1 else 1 for count in grid]
    axes = [axis + 1 for axis in range(len(grid))]
    # Padding counts as 0, and so does what a last group lacks.
    fill = [(0, 0), *((0, -n % s) for n, s in zip(lengths, strides, strict=True))]
    filled = np.pad(np.where(mask[..., None], values, 0), [*fill, (0, 0)])
    averaged = _group_means(filled, axes, strides)
    shares = _group_means(np.pad(mask, fill).astype(float), axes, strides)
    cut, real = patches.by_hand(averaged, shares > 0, patch_sizes)
    old = jax.tree.map(np.asarray, params["tokenizer_m"])
    position = _group_means(old["position"][:, 1:].reshape(1, *grid, -1), axes, strides)
    expected = cut @ old["projection"]["kernel"] + old["projection"]["bias"]
    expected += position.reshape(expected.shape[1:])
    np.testing.assert_allclose(tokens.values[:, 1:], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(tokens.mask[:, 1:], real)
    cls = (old["cls"] + old["position"][:, :1])[:, 0]
    np.testing.assert_allclose(tokens.values[:, 0], np.tile(cls, (3, 1)), rtol=1e-6)


@pytest.mark.parametrize(("lengths", "patch_sizes", "stride"), SIZES)
def test_kernels_of_smaller_patches_come_from_those_of_the_largest(lengths, patch_sizes, stride):
    spec = ModalitySpec(lengths, 2, patch_sizes)
    model = tiny_baselines.make(
        "unimodal", modality="m", modalities={"m": spec}, tokenizer_stride=2 * stride
    )
    params = tiny_baselines.variables(model)["params"]
    kernel = np.asarray(params["tokenizer_m"]["projection"]["kernel"])
    single = [-(-n // p) == 1 for n, p in zip(lengths, patch_sizes, strict=True)]
    random = np.random.default_rng(0)
    for own in (1, stride):
        sizes = [p if one else p * own for p, one in zip(patch_sizes, single, strict=True)]
        patch = random.normal(size=(*sizes, 2))
        enlarged = patch
        for axis, one in enumerate(single):
            enlarged = enlarged if one else np.repeat(enlarged, 2 * stride // own, axis)
        smaller = resize_params(model, params, own)["tokenizer_m"]["projection"]["kernel"]
        token = patch.reshape(-1) @ smaller
        np.testing.assert_allclose(token, enlarged.reshape(-1) @ kernel, rtol=1e-4, atol=1e-5)


def test_a_model_with_kernels_of_larger_patches_is_that_of_stride_one():
    model = tiny_sft.sft(tokenizer_stride=4)
    params = tiny_baselines.variables(model)["params"]
    plain, resized = with_stride(model, 1), resize_params(model, params, 1)
    assert plain == tiny_sft.sft()
    kernels = [tree["tokenizer_sight"]["projection"]["kernel"] for tree in (params, resized)]
    assert kernels[0].shape[0] == 4 * kernels[1].shape[0]
    outputs = [
        jax.jit(one.apply)({"params": tree}, tiny_sft.inputs())
        for one, tree in ((model, params), (plain, resized))
    ]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)


MODELS = {
    **{name: tiny_baselines.make(name) for name in tiny_baselines.RIGHT},
    **{pool: tiny_sft.sft(pool=pool) for pool in ("attn_topk", "perceiver", "tome", "none")},
}


@pytest.mark.parametrize(
    ("name", "stride"), [*((name, 2) for name in MODELS), ("attn_topk", 4), ("perceiver", 4)]
)
def test_every_model_takes_its_resized_parameters(name, stride):
    model = MODELS[name]
    params = tiny_baselines.variables(model)["params"]
    larger = with_stride(model, stride)
    resized = jax.eval_shape(lambda params: resize_params(model, params, stride), params)
    logits = jax.eval_shape(larger.apply, {"params": resized}, tiny_sft.inputs())
    assert logits.shape == (tiny_sft.BATCH, model.num_classes)
    expected = jax.eval_shape(larger.init, jax.random.key(0), larger.example_inputs())["params"]
    if (name, stride) != ("perceiver", 4):  # It has more slots than tokens remain.
        assert jax.tree.map(jnp.shape, resized) == jax.tree.map(jnp.shape, expected)
    assert larger.modalities["sight"] == ModalitySpec(12, 3, patch_size=2 * stride)


def test_resizing_is_linear_and_has_a_gradient_everywhere():
    model = MODELS["attn_topk"]
    params = tiny_baselines.variables(model)["params"]
    primal, tangent = jax.jvp(lambda p: resize_params(model, p, 2), (params,), (params,))
    jax.tree.map(np.testing.assert_array_equal, primal, tangent)

    def total(params):
        variables = {"params": resize_params(model, params, 2)}
        return with_stride(model, 2).apply(variables, tiny_sft.inputs())[:, 0].sum()

    gradient = jax.jit(jax.grad(total))(params)
    for name in ("sight", "sound"):
        for leaf in jax.tree.leaves(gradient[f"tokenizer_{name}"]):
            # The attention to some token may be too small to count.
            assert (np.abs(leaf).max(axis=-1) > 0).all()


def test_stride_one_changes_nothing():
    model, params = tiny_sft.sft(), {}
    assert with_stride(model, 1) is model
    assert resize_params(model, params, 1) is params


def test_a_modality_with_fewer_tokens_keeps_them_all():
    model = tiny_sft.sft(k={"sight": 2, "sound": 5})
    assert with_stride(model, 2).kept_tokens() == {"sight": 2, "sound": 4}
    assert with_stride(model, 6).kept_tokens() == {"sight": 1, "sound": 2}
    none = tiny_sft.sft(pool="none", k=5)
    assert with_stride(none, 4).k == 5


def test_a_unimodal_model_leaves_the_other_modalities_alone():
    model = tiny_baselines.make("unimodal")
    assert with_stride(model, 6).modalities["sound"] == tiny_sft.MODALITIES["sound"]


class _Tokens(nn.Module):
    def __call__(self, values, mask):
        return Tokens(values, mask)


WINDOWS = ReferenceWindows(4, 4)


@pytest.mark.parametrize(
    ("model", "stride", "message"),
    [
        (tiny_sft.sft(), 0, "stride=0 must be an integer of at least 1"),
        (tiny_sft.sft(), 7, r"stride=7 for modality 'sight': patches of \(14,\) .* are 1 to 6"),
        (tiny_sft.sft(tokenizers={"sound": _Tokens()}), 2, "tokenizers of its own for sound; only"),
        (
            tiny_sft.sft(modalities={"row": ModalitySpec(1, 4, kind="vector")}),
            2,
            "modality 'row' is of the kind vector, whose tokens are no patches",
        ),
        (tiny_sft.sft(reference_windows={"sound": WINDOWS}), 2, "has reference_windows, .* leave"),
        (tiny_baselines.make("concat_faithful"), 2, "ConcatFusion has reference_windows"),
        (nn.Dense(3), 2, "stride=2: Dense must derive from MultimodalClassifier"),
        (tiny_sft.sft(pool=Pool(module=TokenLearner)), 4, "for k=3 alone, as the pool is not nest"),
        (tiny_sft.sft(n_pre=-1), 2, "n_pre=-1 must be at least 0"),
    ],
)
def test_a_stride_that_a_model_cannot_have_is_refused(model, stride, message):
    with pytest.raises(ValueError, match=message):
        with_stride(model, stride)


def test_parameters_of_other_patches_are_refused():
    model = tiny_sft.sft()
    params = tiny_sft.variables(model)["params"]
    again = resize_params(model, params, 2)
    with pytest.raises(ValueError, match=r"tokenizer_sight: .* of stride 1, .*\(6,\).* got .*12"):
        resize_params(model, again, 2)
    with pytest.raises(ValueError, match=r"tokenizer_sight: .* got {'kernel': None"):
        resize_params(model, {}, 2)
