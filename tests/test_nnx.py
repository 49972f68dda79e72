"""Models as NNX modules: the numbers of Linen, random streams, gradients, and parameters moved."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_sft
from flax import nnx

import sft_jax
from sft_jax import nnx as sft_nnx
from sft_jax.modules import MODELS
from sft_jax.ops.mixup import Mixup

RANDOM = tiny_sft.sft(n_pre=0, pool="random", dropout=0.5)


def _model():
    """The model of `RANDOM`, with parameters of `tiny_sft`."""
    model = sft_nnx.MultimodalClassifier(RANDOM, rngs=nnx.Rngs(params=0, dropout=1, pool=2))
    model.from_linen(tiny_sft.variables(RANDOM)["params"])
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
    @jax.jit
    def head(key):  # The others would take time to compile.
        return RANDOM.init(key, RANDOM.example_inputs())["params"]["head"]

    model = sft_nnx.MultimodalClassifier(RANDOM, rngs=nnx.Rngs(0))
    _assert_same(model.to_linen()["head"], head(nnx.Rngs(0).params()))


def test_logits_in_evaluation_are_those_of_linen():
    inputs, masks = tiny_sft.inputs(), tiny_sft.masks()

    def logits(apply):
        return apply(inputs, masks), apply({"sight": inputs["sight"]})

    model = _model()
    model.eval()
    expected = jax.jit(lambda variables: logits(functools.partial(RANDOM.apply, variables)))
    _assert_same(nnx.jit(logits)(model), expected(tiny_sft.variables(RANDOM)))


def test_streams_are_drawn_in_training_alone():
    inputs, model = tiny_sft.inputs(), _model()
    assert all(stream.key.tag == name for name, stream in model.streams.items())
    same = nnx.Rngs(**model.streams)
    others = [nnx.Rngs(dropout=1, pool=2), nnx.Rngs(dropout=1, pool=3), nnx.Rngs(dropout=3, pool=2)]

    @nnx.jit
    def call(model, rngs):
        return model(inputs, rngs=rngs), model(inputs, rngs=rngs, deterministic=True)

    @nnx.jit
    def call_with_own(model):
        return model(inputs)

    own = [call_with_own(model) for _ in range(2)]
    trained, evaluated = zip(*(call(model, rngs) for rngs in (same, *others)), strict=True)
    _assert_same(own[0], trained[0])
    assert len({np.asarray(logits).tobytes() for logits in (own[1], *trained)}) == 5
    assert len({np.asarray(logits).tobytes() for logits in evaluated}) == 1
    assert {int(stream.count[...]) for stream in model.streams.values()} == {2}
    assert {int(rngs[name].count[...]) for rngs in (same, *others) for name in rngs} == {1}


def test_step_of_an_optimizer_is_that_of_linen():
    inputs, masks, labels = tiny_sft.inputs(), tiny_sft.masks(), np.arange(tiny_sft.BATCH)
    share = jnp.array([0.9, 0.6, 0.3])
    mixup = Mixup(jnp.array([1, 2, 0]), dict.fromkeys(inputs, share), jnp.array(0))
    model = _model()
    model.module = linen = RANDOM.clone(pool="max", dropout=0.0)

    def loss(apply):
        logits = apply(inputs, masks, mixup=mixup)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @nnx.jit
    def step(model, optimizer):
        params = model.to_linen()
        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        # Beside the other, since equal parts are compiled once.
        return value, jax.value_and_grad(
            lambda params: loss(functools.partial(linen.apply, {"params": params}))
        )(params)

    before = model.to_linen()
    value, (expected, gradient) = step(model, nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    jax.tree.map(
        lambda old, new, grad: np.testing.assert_allclose(new, old - 0.1 * grad, atol=1e-6),
        before,
        model.to_linen(),
        gradient,
    )
    assert all(np.any(array) for array in jax.tree.leaves(gradient["head"]))


class Outer(nnx.Module):
    """Model of a user's own."""

    def __init__(self):
        self.inner = sft_nnx.MultimodalClassifier(RANDOM, rngs=nnx.Rngs(0))


def test_modes_of_a_model_within_another():
    outer = nnx.eval_shape(Outer)
    modes = [outer.inner.deterministic]
    for switch in (outer.eval, outer.train):
        switch()
        modes.append(outer.inner.deterministic)
    assert modes == [False, True, False]


@pytest.mark.skipif(not hasattr(nnx, "view"), reason="this version of Flax has no views")
def test_mode_of_a_view():
    outer = nnx.eval_shape(Outer)
    assert nnx.view(outer, deterministic=True).inner.deterministic
    assert not nnx.view(outer).inner.deterministic


def test_state_makes_the_round_trip():
    model = _model()
    other = sft_nnx.MultimodalClassifier(RANDOM, rngs=nnx.Rngs(params=1, dropout=2, pool=3))
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
    with pytest.raises(TypeError, match=r"must be a flax.linen.Module, got <class"):
        sft_nnx.MultimodalClassifier(sft_jax.LateFusion, rngs=nnx.Rngs(0))
    with pytest.raises(KeyError, match="dropout"):
        sft_nnx.MultimodalClassifier(RANDOM, rngs=nnx.Rngs(params=0))
