"""The bottleneck transformer with dropped blocks in training, and with fewer in evaluation."""

import functools

import jax
import numpy as np
import pytest
import tiny_baselines
import tiny_sft

from sft_jax.config import ModelConfig
from sft_jax.modules.depth import spread_blocks, with_depth
from sft_jax.modules.factory import build_model
from sft_jax.profile.flops import forward_stages

MODEL = tiny_baselines.make("bottleneck", layer_drop=0.5)
RESIDUAL = ("out", "mlp_out")


def _without(variables, blocks):
    """Parameters with which some blocks change nothing: their residual branches are 0."""

    def zeroed(path, leaf):
        names = [key.key for key in path]
        dropped = any(f"unimodal_{name}_{i}" in names for name, i in blocks)
        return np.zeros_like(leaf) if dropped and names[-2] in RESIDUAL else leaf

    return jax.tree_util.tree_map_with_path(zeroed, variables)


def _logits(model, variables, **keywords):
    apply = jax.jit(functools.partial(model.apply, **keywords))
    return apply(variables, tiny_sft.inputs(), tiny_sft.masks())


def test_blocks_left_out_act_as_if_they_changed_nothing():
    variables = tiny_baselines.variables(MODEL)
    fewer = with_depth(MODEL, {"sight": 2, "sound": 1})
    assert fewer.layers == {"sight": (0, 2), "sound": (2,)}
    expected = _without(variables, [("sight", 1), ("sound", 0), ("sound", 1)])
    logits = _logits(fewer, variables)
    np.testing.assert_allclose(logits, _logits(MODEL, expected), rtol=1e-5, atol=1e-5)
    assert np.abs(logits - _logits(MODEL, variables)).max() > 1e-3


def test_training_drops_whole_blocks_of_single_examples():
    variables = tiny_baselines.variables(MODEL)
    rngs = {"dropout": jax.random.key(0)}
    drawn = np.asarray(_logits(MODEL, variables, train=True, rngs=rngs))
    np.testing.assert_array_equal(drawn, _logits(MODEL, variables, train=True, rngs=rngs))
    # Each example has the logits of one of the sets of blocks.
    blocks = [(name, i) for name in ("sight", "sound") for i in range(3)]
    apply = jax.jit(MODEL.apply)
    chosen = np.full(3, -1)
    for number in range(2 ** len(blocks)):
        dropped = [block for bit, block in enumerate(blocks) if number >> bit & 1]
        own = apply(_without(variables, dropped), tiny_sft.inputs(), tiny_sft.masks())
        chosen[np.abs(drawn - own).max(axis=1) < 1e-4] = number
    assert (chosen >= 0).all()
    assert len({*chosen.tolist()}) > 1


def test_without_a_rate_the_program_is_the_same():
    plain = tiny_baselines.make("bottleneck", dropout=0.1, n_post=1)
    variables, inputs = tiny_baselines.variables(plain), tiny_sft.inputs()

    def program(model, train):
        rngs = {"dropout": jax.random.key(0)}
        return str(
            jax.make_jaxpr(lambda v, x: model.apply(v, x, train=train, rngs=rngs))(
                variables, inputs
            )
        )

    assert program(with_depth(plain, 2), True) == program(plain, True)
    assert program(plain.clone(layer_drop=0.5), False) == program(plain, False)
    assert program(plain.clone(layer_drop=0.5), True) != program(plain, True)


def test_fewer_blocks_cost_less():
    costs = [forward_stages(with_depth(MODEL, depth)) for depth in (1, 2, 3)]
    fused = [own["fused"].flops for own in costs]
    assert fused[0] < fused[2]
    assert costs[0]["unimodal"].flops == 0
    # Two blocks are the first, before fusion, and the last.
    assert costs[1]["unimodal"].flops == costs[2]["unimodal"].flops > 0
    assert fused[1] == fused[0]


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [(12, 1, (11,)), (12, 3, (0, 6, 11)), (5, 4, (0, 1, 3, 4)), (4, 4, (0, 1, 2, 3))],
)
def test_blocks_are_spread_from_the_first_to_the_last(total, count, expected):
    blocks = spread_blocks(total, count)
    assert blocks[-1] == total - 1
    assert len({*blocks}) == count
    assert blocks == expected


@pytest.mark.parametrize(
    ("model", "depth", "message"),
    [
        (tiny_sft.sft(), 1, "SparseFusionTransformer computes all of its blocks; Bottleneck"),
        (MODEL, 4, "depth=4 for modality 'sight': it must be from 1 to 3"),
        (MODEL, {"sight": 1}, r"depth names \['sight'\], the modalities are"),
        (tiny_baselines.make("bottleneck_faithful"), 1, "the authors drop no block"),
    ],
)
def test_depths_that_a_model_cannot_have_are_refused(model, depth, message):
    with pytest.raises(ValueError, match=message):
        with_depth(model, depth)


def test_a_rate_of_a_model_that_drops_no_blocks_is_refused():
    refused = r"layer_drop=0\.1 .* model.name=.sft. has .*; allowed with mbt$"
    with pytest.raises(ValueError, match=refused):
        build_model(ModelConfig(layer_drop=0.1), tiny_sft.MODALITIES, 4)
