"""Models as NNX modules: the numbers of Linen, random streams, gradients, and parameters moved."""

import functools

import jax
import numpy as np
import optax
import pytest
import tiny_sft
from flax import nnx

import sft_jax
from sft_jax import nnx as sft_nnx
from sft_jax.modules import MODELS
from sft_jax.ops.mixup import draw_mixup

RANDOM = tiny_sft.sft(n_pre=0, n_post=0, pool="random", readout="mean", dropout=0.5)


def _model(linen=RANDOM):
    """The model of a Linen module, with its parameters of `tiny_sft`."""
    model = sft_nnx.MultimodalClassifier(linen, rngs=nnx.Rngs(0))
    model.from_linen(tiny_sft.variables(linen)["params"])
    return model


def _assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", [path.split(":")[1] for path in MODELS.values()])
def test_parameters_have_the_shapes_of_linen(name):
    attributes = {"width": 8, "num_heads": 2, "n_post": 1}
    attributes |= {"modality": "sight"} if name == "Unimodal" else {}
    model = nnx.eval_shape(
        lambda: getattr(sft_nnx, name)(4, tiny_sft.MODALITIES, rngs=nnx.Rngs(0), **attributes)
    )
    linen = getattr(sft_jax, name)(4, tiny_sft.MODALITIES, **attributes)
    shapes = jax.eval_shape(linen.init, jax.random.key(0), linen.example_inputs())
    assert model.module == linen
    assert jax.tree.map(lambda a: a.shape, model.to_linen()) == jax.tree.map(
        lambda a: a.shape, shapes["params"]
    )


def test_initial_parameters_are_those_of_linen():
    model = sft_nnx.MultimodalClassifier(RANDOM, rngs=nnx.Rngs(0))
    expected = jax.jit(RANDOM.init)(nnx.Rngs(0).params(), RANDOM.example_inputs())
    _assert_same(model.to_linen(), expected["params"])


def test_logits_in_evaluation_are_those_of_linen():
    inputs, masks = tiny_sft.inputs(), tiny_sft.masks()

    def logits(apply):
        return apply(inputs, masks), apply({"sight": inputs["sight"]})

    model = _model()
    model.eval()
    expected = jax.jit(lambda variables: logits(functools.partial(RANDOM.apply, variables)))
    _assert_same(nnx.jit(logits)(model), expected(tiny_sft.variables(RANDOM)))


def test_streams_are_drawn_in_training_alone():
    inputs, model = tiny_sft.inputs(batch=2), _model()
    others = [nnx.Rngs(dropout=1, pool=2), nnx.Rngs(dropout=1, pool=3), nnx.Rngs(dropout=3, pool=2)]
    keys = {name: nnx.clone(stream)() for name, stream in model.streams.items()}

    @nnx.jit
    def call(model, rngs):
        return model(inputs, rngs=rngs), model(inputs, deterministic=True)

    @nnx.jit
    def call_with_own(model):
        return model(inputs)

    @jax.jit
    def linen(variables, keys):
        return RANDOM.apply(variables, inputs, train=True, rngs=keys)

    trained = [call_with_own(model), call_with_own(model)]
    _assert_same(trained[0], linen(tiny_sft.variables(RANDOM), keys))
    called = [call(model, rngs) for rngs in others]
    trained += [logits for logits, _ in called]
    assert len({np.asarray(logits).tobytes() for logits in trained}) == len(trained)
    assert len({np.asarray(logits).tobytes() for _, logits in called}) == 1
    assert {int(stream.count[...]) for stream in model.streams.values()} == {2}
    assert {int(rngs[name].count[...]) for rngs in others for name in rngs} == {1}


def test_step_of_an_optimizer_is_that_of_linen():
    inputs, masks, labels = tiny_sft.inputs(), tiny_sft.masks(), np.arange(tiny_sft.BATCH)
    mixup = draw_mixup(
        jax.random.key(1), tiny_sft.BATCH, [*inputs], alpha=1.0, layers=(0, 1), joint_from=0
    )
    linen = tiny_sft.sft(n_pre=0, pool="max")
    params, sgd = tiny_sft.variables(linen)["params"], optax.sgd(0.1)

    def loss(apply):
        logits = apply(inputs, masks, mixup=mixup)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @nnx.jit
    def step(model, optimizer):
        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        return value

    @jax.jit
    def linen_step(params):
        def loss_of(params):
            return loss(functools.partial(linen.apply, {"params": params}))

        value, gradient = jax.value_and_grad(loss_of)(params)
        return value, optax.apply_updates(params, sgd.update(gradient, sgd.init(params))[0])

    model = _model(linen)
    value = step(model, nnx.Optimizer(model, sgd, wrt=nnx.Param))
    expected, stepped = linen_step(params)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        model.to_linen(),
        stepped,
    )


def test_modes_of_a_model_within_another():
    class Outer(nnx.Module):
        def __init__(self, rngs):
            self.inner = sft_nnx.MultimodalClassifier(RANDOM, rngs=rngs)

    outer = nnx.eval_shape(lambda: Outer(nnx.Rngs(0)))
    modes = [outer.inner.deterministic]
    for switch in (outer.eval, outer.train):
        switch()
        modes.append(outer.inner.deterministic)
    assert modes == [False, True, False]
    assert nnx.view(outer, deterministic=True).inner.deterministic
    assert not nnx.view(outer).inner.deterministic


def test_state_makes_the_round_trip():
    model, other = _model(), sft_nnx.MultimodalClassifier(RANDOM, rngs=nnx.Rngs(1))
    model.streams["pool"]()
    graph, state = nnx.split(model)
    merged = nnx.merge(graph, state)
    pure = nnx.to_pure_dict(nnx.state(model))
    into = nnx.state(other)
    nnx.replace_by_pure_dict(into, pure)
    nnx.update(other, into)
    key = nnx.clone(model.streams["pool"])()
    for copy in (merged, other):
        assert copy.module == model.module
        _assert_same(copy.to_linen(), tiny_sft.variables(RANDOM)["params"])
        assert copy.streams["pool"]() == key


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"head": None}, r"head/classifier/bias is missing, must be \(4,\)"),
        ({"more": np.zeros(2)}, r"more is \(2,\), must be absent"),
        (
            {"head": {"norm": {"scale": np.zeros(3), "bias": np.zeros(8)}}},
            r"head/classifier/kernel is missing, .*; head/norm/scale is \(3,\), must be \(8,\)",
        ),
    ],
    ids=["missing", "unknown", "misshapen"],
)
def test_parameters_that_do_not_fit_are_named(change, problem):
    params = tiny_sft.variables(RANDOM)["params"] | change
    params = {name: value for name, value in params.items() if value is not None}
    model = _model()
    with pytest.raises(ValueError, match=f"SparseFusionTransformer: .*{problem}"):
        model.from_linen(params)
    _assert_same(model.to_linen(), tiny_sft.variables(RANDOM)["params"])


def test_wrong_attributes_are_noticed_at_once():
    with pytest.raises(ValueError, match="num_heads=3 does not divide width=8"):
        sft_nnx.LateFusion(4, tiny_sft.MODALITIES, width=8, num_heads=3, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="pool"):
        sft_nnx.LateFusion(4, tiny_sft.MODALITIES, pool="max", rngs=nnx.Rngs(0))
    with pytest.raises(KeyError, match="dropout"):
        sft_nnx.MultimodalClassifier(RANDOM, rngs=nnx.Rngs(params=0))
