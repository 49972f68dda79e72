"""Saliency that pools select by: attention received, attention of CLS, or learned scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_sft

from sft_jax import BlockSparsePattern, ModalitySpec, Tokens, WindowPattern
from sft_jax.config import ModelConfig
from sft_jax.modules.attention import SelfAttention
from sft_jax.modules.reducer import Reducer
from sft_jax.modules.scorer import Scorer
from sft_jax.modules.sft import SALIENCIES
from sft_jax.modules.sparse_pooling import NoAttention, SparsePooling
from sft_jax.ops.attention import kernels
from sft_jax.ops.pool.select import select_top_k, weigh_tokens
from sft_jax.profile.flops import forward_stages

SINGLE = [pool for pool in tiny_sft.SALIENT_POOLS if pool in tiny_sft.SINGLE_POOLS]
MASK = np.array([[1] * 9, [1, 1, 0, 1, 0, 1, 1, 1, 0], [0] * 9], bool)
LOOKING = {"mutable": ["intermediates"]}


def _tokens(dtype=np.float32):
    values = np.random.default_rng(0).normal(size=(*MASK.shape, 4))
    return Tokens(jnp.asarray(values, dtype), jnp.asarray(MASK))


def _by_hand(variables, tokens):
    """Attention of CLS to the others, by NumPy in float64."""
    qkv = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"]["qkv"])
    query, key, _ = np.moveaxis(np.tensordot(tokens.values, qkv["kernel"], 1) + qkv["bias"], 2, 0)
    expected = np.zeros((len(MASK), MASK.shape[1] - 1))
    for b, mask in enumerate(MASK):
        for head in np.split(np.arange(4), 2):
            weights = np.exp(key[b, :, head].T @ query[b, 0, head] / np.sqrt(2)) * mask
            expected[b] += (weights / max(weights.sum(), 1e-300))[1:] / 2
    return expected


@pytest.mark.parametrize(
    "attributes",
    [
        *({"kernel": kernel} for kernel in kernels.KERNELS if kernel != "cudnn"),
        {"pattern": WindowPattern(2, 1, 1)},
        {"pattern": BlockSparsePattern(2, 1)},
    ],
    ids=str,
)
def test_from_cls_is_its_attention_with_every_kernel_and_pattern(attributes):
    with jax.enable_x64(True):
        attention = SelfAttention(2, saliency="from_cls", **attributes)
        tokens = _tokens(np.float64)
        variables = tiny_sft.normal_variables(attention, tokens)
        _, saliency = attention.apply(variables, tokens)
    np.testing.assert_allclose(saliency, _by_hand(variables, tokens), rtol=0, atol=1e-7)
    assert (np.asarray(saliency)[~MASK[:, 1:]] == 0).all()


@pytest.mark.parametrize("saliency", SALIENCIES)
def test_the_most_salient_tokens_are_kept(saliency):
    pooling = SparsePooling(2, "attn_topk", 2, saliency=saliency)
    tokens = _tokens()
    variables = tiny_sft.normal_variables(pooling, tokens)
    (_, kept), state = pooling.apply(variables, tokens, **LOOKING)
    sown = state["intermediates"]
    order = np.argsort(-np.asarray(sown["saliency"][0]), axis=1)
    np.testing.assert_array_equal(sown["reducer"]["index"][0][:2], order[:2, :2])
    assert kept.mask.tolist() == [[True, True], [True, True], [False, False]]
    assert (kept.sizes is not None) == (saliency == "learned")
    if saliency == "learned":
        largest = np.take_along_axis(np.asarray(sown["saliency"][0]), order[:, :2], axis=1)
        sizes = largest * MASK[:, 1:].sum(axis=1, keepdims=True)
        np.testing.assert_allclose(kept.sizes[:2], sizes[:2], rtol=1e-6)
    assert np.isfinite(sown["saliency"][0]).all()


def _reducer_gradient(pool):
    """Gradient of later attention to the pooled tokens with respect to their saliency."""
    tokens = _tokens()
    reducer = Reducer(pool, 3, weighted=True)

    def total(saliency):
        kept = reducer.apply({}, tokens, saliency)
        heads = kept.values[:, :, None]
        sums, _ = kernels.attend("plain", heads[:, :1], heads, heads, kept.mask, kept.sizes)
        return (sums * jnp.arange(4)).sum()

    saliency = np.random.default_rng(1).random(MASK.shape).astype(np.float32)
    return np.asarray(jax.grad(total)(jnp.asarray(np.where(MASK, saliency, 0))))


@pytest.mark.parametrize("pool", SINGLE)
def test_a_gradient_reaches_learned_saliency_in_every_pool(pool):
    gradient = _reducer_gradient(pool)
    assert np.isfinite(gradient).all()
    assert (gradient[:2] != 0).any(axis=1).all()
    assert not gradient[~MASK].any()


def test_a_gradient_reaches_the_scorers_of_a_model_with_one_budget():
    model = tiny_sft.sft(pool="joint_topk", n_pre=0, saliency="learned", k=1)
    variables = tiny_sft.normal_variables(model, model.example_inputs())

    @jax.jit
    @jax.grad
    def gradient(variables, key):
        rngs = {"pool": key}
        inputs, masks = tiny_sft.inputs(), tiny_sft.masks()
        return model.apply(variables, inputs, masks, train=True, rngs=rngs).sum()

    params = gradient(variables, jax.random.key(0, impl="rbg"))["params"]
    for name in model.modalities:
        scorer = params[f"pooling_{name}"]["scorer"]
        assert np.isfinite(jax.tree.leaves(params)[0]).all()
        assert abs(scorer["score"]["kernel"]).max() > 1e-6


def test_only_learned_scores_have_parameters():
    shapes = {}
    for saliency in SALIENCIES:
        for k in (0, 2):
            model = tiny_sft.sft(saliency=saliency, n_pre=0, k=k)
            variables = jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())
            paths = jax.tree_util.tree_leaves_with_path(variables["params"])
            names = {jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in paths}
            # They don't depend on k, so that a trained model takes any.
            assert shapes.setdefault(saliency, names) == names
    assert shapes["from_cls"] == shapes["received"]
    assert shapes["learned"] - shapes["received"] == {
        f"pooling_{name}/scorer/{own}"
        for name in tiny_sft.MODALITIES
        for own in ("norm/scale", "norm/bias", "score/kernel", "score/bias")
    }


@pytest.mark.parametrize("keywords", [{}, LOOKING])
def test_kernels_compute_the_attention_received_alone(keywords):
    asked = {}
    for saliency in SALIENCIES:
        requests = asked.setdefault(saliency, [])

        def kernel(*arrays, with_saliency, requests=requests):
            requests.append(with_saliency)
            return kernels.plain(*arrays, with_saliency=with_saliency)

        pooling = SparsePooling(2, "attn_topk", 2, saliency=saliency, kernel=kernel)
        variables = jax.eval_shape(pooling.init, jax.random.key(0), _tokens())
        requests.clear()
        jax.eval_shape(functools.partial(pooling.apply, **keywords), variables, _tokens())
    assert asked == {"received": [True], "from_cls": [False], "learned": [False]}


def test_the_attention_of_cls_costs_one_query():
    def cost(length, **attributes):
        modalities = {"sight": ModalitySpec(length, 3)}
        model = tiny_sft.sft(modalities=modalities, n_pre=0, n_post=0, readout="mean", **attributes)
        return forward_stages(model)["pre_pooling"].flops

    def added(length):
        return cost(length, saliency="from_cls") - cost(length, pool="max")

    # 2 n d for the products, and a few operations for each weight.
    assert 2 * 100 * 8 < added(100) < 6 * 100 * 8
    assert added(200) == pytest.approx(2 * added(100), rel=0.05)


def test_noise_explores_in_training_alone():
    tokens, scorer = _tokens(), Scorer()
    variables = tiny_sft.normal_variables(scorer, tokens)

    def scores(seed=None, **keywords):
        rngs = {} if seed is None else {"pool": jax.random.key(seed)}
        return np.asarray(scorer.apply(variables, tokens, rngs=rngs, **keywords))

    plain, first, second = scores(), scores(0, noisy=True), scores(1, noisy=True)
    for drawn in (plain, first, second):
        np.testing.assert_allclose(drawn.sum(axis=1), [1, 1, 0], rtol=1e-6)
        assert not drawn[~MASK].any()
    assert (first != second)[MASK].all()
    np.testing.assert_array_equal(plain, scores(0))


def test_a_token_of_mean_saliency_counts_as_one():
    tokens = _tokens()
    even = jnp.asarray(MASK / np.maximum(MASK.sum(axis=1, keepdims=True), 1), jnp.float32)
    kept, index = select_top_k(tokens, even, 3)
    np.testing.assert_allclose(weigh_tokens(kept, index, [tokens], [even]).sizes, 1, rtol=1e-6)
    # Even a saliency that has underflowed has a logarithm.
    assert (weigh_tokens(kept, index, [tokens], [0 * even]).sizes > 0).all()


def test_learned_scores_find_planted_tokens():
    """One token of eight, marked by its first feature, holds what is asked for."""
    random = np.random.default_rng(0)
    values = 0.3 * random.normal(size=(256, 8, 4)).astype(np.float32)
    place, answer = random.integers(0, 8, 256), np.sign(random.normal(size=256))
    values[..., 1] += 2 * np.sign(random.normal(size=(256, 8)))  # Loud, and of no use.
    values[np.arange(256), place, :2] = np.stack([np.full(256, 2), answer], axis=1)
    tokens = Tokens(jnp.asarray(values), jnp.ones((256, 8), bool))
    scorer, optimizer = Scorer(), optax.adam(0.1)
    params = {
        "norm": {"scale": jnp.ones(4), "bias": jnp.zeros(4)},
        "score": {"kernel": jnp.asarray([[-0.3], [0.1], [0.3], [-0.1]]), "bias": jnp.zeros(1)},
    }

    def kept(params, **keywords):
        saliency = scorer.apply({"params": params}, tokens, **keywords)
        return saliency, *select_top_k(tokens, saliency, 2)

    def loss(params, key):
        saliency, selected, index = kept(params, noisy=True, rngs={"pool": key})
        sizes = weigh_tokens(selected, index, [tokens], [saliency]).sizes
        read = (sizes * selected.values[..., 1]).sum(axis=1) / sizes.sum(axis=1)
        return jnp.square(read - answer).mean()

    def step(state, key):
        params, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params, key), moments, params)
        return (optax.apply_updates(params, updates), moments), None

    @jax.jit
    def train(params):
        keys = jax.random.split(jax.random.key(0, impl="rbg"), 60)
        (trained, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return kept(params)[2], kept(trained)[2]

    before, after = ((index == place[:, None]).any(axis=1).mean() for index in train(params))
    assert before < 0.3
    assert after > 0.95


@pytest.mark.parametrize("saliency", ["from_cls", "learned"])
def test_a_pool_that_would_ignore_the_choice_refuses_it(saliency):
    message = rf"saliency='{saliency}' has no effect on pool='max'; it has on attn, attn_topk, "
    model = tiny_sft.sft(pool="max", saliency=saliency)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())
    with pytest.raises(ValueError, match=message):
        ModelConfig(pool="max", saliency=saliency)
    # A model without pools ignores the pool and all that belongs to it.
    assert ModelConfig(name="late", pool="max", saliency=saliency).saliency == saliency


def test_an_unknown_saliency_is_named():
    model = tiny_sft.sft(saliency="given")
    with pytest.raises(ValueError, match="saliency='given' is not one of received, from_cls"):
        jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())


def test_without_attention_before_pooling_tokens_are_kept_as_they_came():
    tokens = _tokens()
    pooling = SparsePooling(2, "attn_topk", 8, pattern=NoAttention(), saliency="learned")
    variables = tiny_sft.normal_variables(pooling, tokens)
    assert {*variables["params"]} == {"scorer"}
    (cls, kept), state = pooling.apply(variables, tokens, **LOOKING)
    np.testing.assert_array_equal(cls, tokens.values[:, 0])
    (index,) = state["intermediates"]["reducer"]["index"]
    expected = np.take_along_axis(np.asarray(tokens.values)[:, 1:], index[..., None], axis=1)
    np.testing.assert_array_equal(kept.values, np.where(kept.mask[..., None], expected, 0))


@pytest.mark.parametrize("saliency", ["received", "from_cls"])
def test_a_pool_that_needs_the_attention_refuses_to_go_without(saliency):
    message = (
        "needs the attention before pooling, which is left out; allowed are saliency='learned'"
    )
    with pytest.raises(ValueError, match=message):
        ModelConfig(pre_pooling_attention="none", saliency=saliency)
    model = tiny_sft.sft(pre_pooling_pattern=NoAttention(), saliency=saliency)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())
    assert ModelConfig(pre_pooling_attention="none", pool="max").pool == "max"
