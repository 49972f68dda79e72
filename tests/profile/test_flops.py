"""Counted operations against counts by hand."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_baselines
import tiny_sft

from configs import mosei, vggsound
from sft_jax import ModalitySpec, Tokens, config_io
from sft_jax.modules.block import Block
from sft_jax.modules.factory import build_model
from sft_jax.profile.flops import (
    STAGES,
    Cost,
    by_stage,
    count,
    forward_cost,
    forward_stages,
    num_parameters,
    total,
)

N, D = 6, 8


def array(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def product(x, y):
    return x @ y


X = array(N, N)
PRODUCT = 2 * N**3


def test_a_dense_layer():
    dense = nn.Dense(7)
    params = {"params": {"kernel": array(5, 7), "bias": array(7)}}
    cost = count(dense.apply, params, array(3, 5))
    assert cost == Cost(matmul_flops=2 * 3 * 5 * 7, elementwise_flops=3 * 7, largest_bytes=4 * 21)
    assert cost.flops == 2 * 3 * 5 * 7 + 3 * 7


def test_a_convolution_in_groups():
    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "VALID", feature_group_count=2)

    cost = count(convolve, array(3, 4, 9, 9), array(10, 2, 3, 3))
    assert cost.flops == cost.matmul_flops == 2 * (3 * 10 * 7 * 7) * (2 * 3 * 3)


def test_a_softmax():
    cost = count(jax.nn.softmax, array(3, 50))
    # Maximum, difference, exponential, sum, quotient; and the maximum is kept above -inf.
    assert cost == Cost(elementwise_flops=5 * 3 * 50 + 3, largest_bytes=4 * 150)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: jnp.where(x > 0, jnp.exp(x), -x), 4 * N * N),
        (lambda x: jnp.cumsum(x, axis=1).max(axis=0), 2 * N * N),
        (lambda x: x.argmin(axis=1), N * N),
        (lambda x: jax.lax.sort(x, dimension=0), N * N * 3),
        (lambda x: jax.lax.top_k(x, 2), N * N * 3),
        (lambda x: jnp.concatenate([x.T, x[::-1]], axis=1).reshape(2, -1), 0),
        (lambda x: jnp.pad(x, 1).astype(np.int32)[:3], 0),
        (lambda x: x.at[jnp.arange(2)].set(1.0, wrap_negative_indices=False), 0),
        (lambda x: x.at[jnp.arange(2)].add(1.0, wrap_negative_indices=False), 2 * N),
        (jax.nn.relu, N * N),  # A function with a custom derivative.
        (jax.jit(jax.nn.relu), N * N),
    ],
)
def test_arithmetic_counts_and_moving_does_not(function, expected):
    cost = count(function, X)
    assert (cost.matmul_flops, cost.elementwise_flops) == (0, expected)


def test_a_scan_counts_as_often_as_it_runs():
    def body(carry, x):
        return jnp.tanh(carry @ x), None

    once = count(body, X, X)
    assert once.flops == PRODUCT + N * N
    looped = count(lambda x, xs: jax.lax.scan(body, x, xs), X, array(5, N, N))
    assert looped.flops == 5 * once.flops
    assert looped.largest_bytes == once.largest_bytes == 4 * N * N


def test_loops_nest():
    def inner(_, x):
        return jax.lax.fori_loop(0, 3, lambda _, x: x @ x, x)

    assert count(lambda x: jax.lax.fori_loop(2, 6, inner, x), X).matmul_flops == 12 * PRODUCT


def test_a_loop_of_unknown_length_is_an_error():
    def loop(x, bound):
        return jax.lax.fori_loop(0, bound, lambda _, x: x @ x, x)

    with pytest.raises(ValueError, match="while_loop runs an unknown number of times"):
        count(loop, X, array(dtype=np.int32))


def test_a_conditional_counts_as_its_dearest_branch():
    def choose(which, x):
        few = array(3 * N, N)
        branches = [product, lambda x, y: x + y, lambda x, _: jnp.zeros(few.shape)[:N] + x]
        return jax.lax.switch(which, branches, x, x)

    cost = count(choose, array(dtype=np.int32), X)
    assert cost.matmul_flops == PRODUCT
    assert cost.elementwise_flops < N  # Keeping `which` in range.
    assert cost.largest_bytes == 4 * 3 * N * N


def test_a_gradient_costs_three_times_the_forward_pass():
    def loss(x, y):
        return ((x @ y) ** 2).sum()

    gradient = jax.grad(loss, argnums=(0, 1))
    assert count(loss, X, X).matmul_flops == PRODUCT
    assert count(gradient, X, X).matmul_flops == 3 * PRODUCT
    assert count(jax.grad(loss), X, X).matmul_flops == 2 * PRODUCT


def test_recomputation_counts():
    def cube(x):
        return jax.checkpoint(lambda x: (x @ x) @ x)(x).sum()

    assert count(cube, X).matmul_flops == 2 * PRODUCT
    # The forward pass; then its first product again, and two products for each of the two.
    both = count(jax.value_and_grad(cube), X)
    assert both.matmul_flops == (2 + 1 + 4) * PRODUCT


def test_a_custom_gradient_counts_as_written():
    function = jax.custom_vjp(product)
    function.defvjp(lambda x, y: (x @ y, y), lambda y, g: (g @ y.T, g))
    assert count(function, X, X).matmul_flops == PRODUCT
    assert count(lambda x, y: jax.vjp(function, x, y)[1](x)[0], X, X).matmul_flops == PRODUCT


def test_unused_operations_do_not_count():
    def body(carry, _):
        used, unused = carry
        return (used + 1, unused @ unused), unused @ used

    def loop(x):
        (used, _), _ = jax.lax.scan(body, (x, x), length=3)
        return used

    assert count(loop, X) == Cost(elementwise_flops=3 * N * N, largest_bytes=4 * N * N)


def test_the_largest_array_may_be_inside_a_call():
    inner = jax.jit(lambda x: (x[:, None] - x[None]).sum())
    assert count(inner, array(100)).largest_bytes == 4 * 100**2
    assert count(lambda x: x, X) == Cost()


def test_an_unknown_primitive_is_named():
    with pytest.raises(NotImplementedError, match="'cholesky'"):
        count(jnp.linalg.cholesky, X)


def block_matmuls(n, d):
    """Query, key, value and output are 8nd², the weights and their use 4n²d, the MLP 4nd²."""
    return 12 * n * d**2 + 4 * n**2 * d


def test_a_block_of_attention():
    def run(params, values, mask):
        return Block(num_heads=2).apply(params, Tokens(values, mask))

    tokens = array(3, N, D), array(3, N, dtype=bool)
    params = jax.eval_shape(
        lambda: Block(num_heads=2).init(
            jax.random.key(0), Tokens(jnp.zeros((3, N, D)), jnp.ones((3, N), bool))
        )
    )
    cost = count(run, params, *tokens)
    assert cost.matmul_flops == 3 * block_matmuls(N, D)
    # A softmax and two masks over two heads; norms, residuals and biases over the features.
    least = 3 * 2 * N**2 * 7
    assert least < cost.elementwise_flops < least + 3 * N * D * 40


def sft_matmuls(model, pool_matmuls):
    d = model.width
    fused = 1 + len(model.modalities) * model.k
    total = block_matmuls(fused, d) * (model.n_post - 1)
    # The last block needs all keys and values, but query, attention, output and MLP of CLS only.
    total += 2 * d**2 + 4 * fused * d**2 + 4 * fused * d + 2 * d**2 + 4 * d**2
    for spec in model.modalities.values():
        n = 1 + spec.num_tokens
        total += 2 * spec.num_tokens * spec.patch_size * spec.features * d
        total += model.n_pre * block_matmuls(n, d)
        total += 8 * n * d**2 + 4 * n**2 * d + pool_matmuls(n - 1)
    return total + 2 * d * model.num_classes


@pytest.mark.parametrize(
    ("pool", "pool_matmuls"),
    [
        ("max", lambda n: 0),
        # The weights of the heads are summed first.
        ("attn_topk", lambda n: 2 * n**2),
    ],
)
def test_an_sft(pool, pool_matmuls):
    model = tiny_sft.sft(pool=pool, n_pre=2, n_post=3)
    one, five = forward_cost(model), forward_cost(model, batch_size=5)
    assert one.matmul_flops == sft_matmuls(model, pool_matmuls)
    assert five.matmul_flops == 5 * one.matmul_flops
    assert 0 < one.elementwise_flops < five.elementwise_flops <= 5 * one.elementwise_flops


def test_fewer_tokens_cost_less():
    few, many = (forward_cost(tiny_sft.sft(pool="max", k=k)) for k in (1, 6))
    assert few.matmul_flops < many.matmul_flops
    assert few.elementwise_flops < many.elementwise_flops


def test_parameters_are_counted():
    model = tiny_sft.sft(n_pre=2, n_post=3)
    d = model.width
    attention, mlp = 4 * d**2 + 4 * d, 2 * d**2 + 4 * d
    expected = 3 * (attention + mlp) + 2 * d + d * model.num_classes + model.num_classes
    for spec in model.modalities.values():
        expected += spec.patch_size * spec.features * d + d + d + (spec.num_tokens + 1) * d
        expected += 2 * (attention + mlp) + attention
    assert num_parameters(model) == expected


@pytest.mark.parametrize("name", ["unimodal", "bottleneck", "crossmodal"])
def test_other_models_can_be_counted(name):
    model = tiny_baselines.make(name)
    cost = forward_cost(model)
    assert all(value > 0 for value in dataclasses.asdict(cost).values())
    variables = tiny_baselines.variables(model)
    assert num_parameters(model) == sum(math.prod(a.shape) for a in jax.tree.leaves(variables))


def scoped(name, function):
    return jax.named_scope(name)(function)


@pytest.mark.parametrize(
    ("scope", "stage"),
    [
        ("tokenizer_a", "tokenizer"),
        ("Model/unimodal_head_0/mlp_in", "unimodal"),
        ("pooling_a/attention", "pre_pooling"),
        ("pooling_reducer", "pre_pooling"),
        ("pooling_a/reducer/perceiver", "pooling"),
        ("fused_3/attention/out", "fused"),
        ("fused/unimodal_a_3", "fused"),
        ("fused/cross_a_with_b_0", "fused"),
        ("Model/mine_0/mlp_in", "other"),
        ("head/classifier", "head"),
        ("readout", "head"),
        ("Model/overhead", "other"),
        ("", "other"),
    ],
)
def test_the_outermost_known_name_decides_the_stage(scope, stage):
    function = product
    for name in filter(None, reversed(scope.split("/"))):
        function = scoped(name, function)
    costs = by_stage(function, X, X)
    assert costs == dict.fromkeys(STAGES, Cost()) | {stage: Cost(PRODUCT, 0, 4 * N * N)}


def test_calls_loops_and_gradients_keep_their_stage():
    forward, backward = jax.custom_vjp(product), scoped("reducer", lambda y, g: (g @ y.T, g))
    forward.defvjp(lambda x, y: (x @ y, y), backward)

    def pool(x):
        inner = jax.checkpoint(jax.jit(scoped("reducer", lambda x: x @ x)))
        x, _ = jax.lax.scan(lambda x, _: (inner(x), None), x, length=3)
        return jax.lax.cond(x.sum() > 0, product, lambda x, _: x, forward(x, x), x)

    def run(x):
        return scoped("head", product)(scoped("pooling_a", pool)(x), x)

    costs = by_stage(run, X)
    flops = {stage: cost.matmul_flops for stage, cost in costs.items() if cost.matmul_flops}
    assert flops == {"pooling": 3 * PRODUCT, "pre_pooling": 2 * PRODUCT, "head": PRODUCT}
    gradient = by_stage(jax.value_and_grad(lambda x: run(x).sum()), X)
    flops = {stage: cost.matmul_flops for stage, cost in gradient.items() if cost.matmul_flops}
    # Forward and backward are three products; the custom gradient, in the reducer, is one.
    assert flops == {
        "pooling": (3 * 3 + 1) * PRODUCT,
        "pre_pooling": (3 + 1) * PRODUCT,
        "head": 3 * PRODUCT,
    }


@pytest.mark.parametrize("name", ["sft", "late", "concat", "unimodal", "bottleneck", "crossmodal"])
def test_stages_cover_the_whole_model(name):
    model = (
        tiny_sft.sft(pool="attn_topk", n_pre=2, n_post=3)
        if name == "sft"
        else tiny_baselines.make(name)
    )
    stages = forward_stages(model)
    assert [*stages] == [*STAGES]
    assert total(stages) == forward_cost(model)
    assert stages["other"].matmul_flops == 0
    projections = sum(
        2 * spec.num_tokens * spec.patch_size * spec.features * model.width
        for spec in model.modalities.values()
        if name != "unimodal" or spec == model.modalities[model.mixed_modalities[0]]
    )
    assert stages["tokenizer"].matmul_flops == projections
    expected = {
        "sft": {"tokenizer", "unimodal", "pre_pooling", "fused", "head"},
        "late": {"tokenizer", "unimodal", "head"},
        "unimodal": {"tokenizer", "unimodal", "head"},
        "concat": {"tokenizer", "fused", "head"},
        "bottleneck": {"tokenizer", "unimodal", "fused", "head"},
        "crossmodal": {"tokenizer", "fused", "head"},
    }
    assert {stage for stage, cost in stages.items() if cost.matmul_flops} == expected[name]


# Millions of operations in matrix products for one example, measured on the authors' code.
AUTHORS_SFT = {
    "vggsound": (
        {"tokenizer": 18.5, "unimodal": 255.8, "pre_pooling": 247.6, "fused": 5.2},
        527.2,
        {"rgb": ModalitySpec(38, 1024), "spect": ModalitySpec(1200, 128)}
        | {"flow": ModalitySpec(38, 1024)},
        vggsound,
    ),
    "mosei": (
        {"tokenizer": 5.6, "unimodal": 101.0, "pre_pooling": 94.2, "fused": 3.8},
        204.6,
        {"vision": ModalitySpec(500, 35), "audio": ModalitySpec(500, 74)}
        | {"text": ModalitySpec(50, 300)},
        mosei,
    ),
}


@pytest.mark.parametrize("name", AUTHORS_SFT)
def test_the_papers_model_costs_no_more_than_theirs(name):
    expected, most, modalities, file = AUTHORS_SFT[name]
    config = config_io.from_mapping(file.get_config())
    stages = forward_stages(build_model(config.model, modalities, 10 if name == "vggsound" else 7))
    for stage, millions in expected.items():
        # The last fused block computes only CLS.
        least = 0.9 if stage == "fused" else 0.99
        assert least * millions <= stages[stage].matmul_flops / 1e6 <= 1.01 * millions
    assert sum(stages[stage].matmul_flops for stage in set(STAGES) - set(expected)) < 1e4
    assert total(stages).matmul_flops <= 1e6 * most


# Millions of operations of the authors' MBT, and the factor that windowed attention saves.
AUTHORS_MBT = {"vggsound": (3107.2, 30), "mosei": (1232.9, 15)}


@pytest.mark.parametrize("name", AUTHORS_MBT)
def test_windowed_attention_costs_a_fraction_of_their_mbt(name):
    *_, modalities, file = AUTHORS_SFT[name]
    millions, times = AUTHORS_MBT[name]
    changed = file.get_config()
    changed.model.unimodal_attention = changed.model.pre_pooling_attention = "windowed"
    model = build_model(config_io.from_mapping(changed).model, modalities, 10)
    assert times * total(forward_stages(model)).matmul_flops <= 1e6 * millions
