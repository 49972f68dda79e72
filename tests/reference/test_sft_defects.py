"""Defects of the authors' code: they are gone in ours, and kept in the faithful mode if it has one.

Numbers are those of the rows of `SPEC.md`, section 16. `test_defect_table.py` has the list of all.
"""

import functools
import typing

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import synthetic
import tiny_sft
from jax.interpreters import partial_eval
from sparing import slow_but

from configs import mosei, vggsound
from sft_jax import Batch, BlockSparsePattern, ModalitySpec, ReferenceWindows, Tokens, config_io
from sft_jax.config import ExperimentConfig, MixupConfig, ModelConfig
from sft_jax.data import pipeline
from sft_jax.modules import MODELS
from sft_jax.modules.factory import build_model
from sft_jax.modules.reducer import Reducer
from sft_jax.ops.attention.block_sparse import BlockSparseWeights, to_dense
from sft_jax.ops.mixup import draw_mixup
from sft_jax.training.assembly import Plan
from sft_jax.training.step import make_train_step

MIXUPS = typing.get_args(typing.get_type_hints(MixupConfig)["layers"])

both = pytest.mark.parametrize("right", [True, False], ids=["ours", "theirs"])


def _train_step(model, **mixup):
    """A training step of a config, and what it is called with: examples of one class."""
    sizes = {"width": 8, "num_heads": 2, "n_pre": 1, "n_post": 1, "k": 2}
    config = ExperimentConfig(
        model=ModelConfig(**sizes | model), mixup=MixupConfig(warmup_epochs=0.0, **mixup)
    )
    module = build_model(config.model, tiny_sft.MODALITIES, 4)
    params = tiny_sft.normal_variables(module, module.example_inputs())["params"]
    optimizer = optax.sgd(0.1)
    state = synthetic.first_state(params, optimizer)
    one_class = np.full(tiny_sft.BATCH, 2), np.ones(tiny_sft.BATCH, np.float32)
    batch = Batch(tiny_sft.inputs(), tiny_sft.masks(), *one_class)
    return make_train_step(module, optimizer, config.train, config.mixup, config.seed), state, batch


def _intermediates(model, inputs, masks=None):
    apply = jax.jit(functools.partial(model.apply, capture_intermediates=True, mutable=True))
    return apply(tiny_sft.variables(model), inputs, masks)[1]["intermediates"]


@pytest.mark.parametrize(
    ("attributes", "dense"),
    [({}, True), ({"pre_pooling_pattern": BlockSparsePattern()}, False)],
    ids=["default", "pattern"],
)
def test_1_every_token_attends_to_all_without_a_pattern(attributes, dense):
    modalities = {"sight": ModalitySpec(40, 3)}
    model = tiny_sft.sft(modalities=modalities, n_pre=0, n_post=0, pool="max", **attributes)
    mask = np.arange(40) < np.array([[40], [37], [40]])
    tensors = _intermediates(model, tiny_sft.inputs(modalities=modalities), {"sight": mask})
    weights = tensors["pooling_sight"]["attention"]["weights"][0]
    if isinstance(weights, BlockSparseWeights):
        weights = to_dense(weights)
    real = np.pad(mask, ((0, 0), (1, 0)), constant_values=True)
    between_real = real[:, :, None] & real[:, None]
    seen = (np.asarray(weights) > 0) & between_real[:, None]
    assert (seen == between_real[:, None]).all() == dense
    expected = between_real if dense else between_real & BlockSparsePattern().allowed(41)
    np.testing.assert_array_equal(seen, np.broadcast_to(expected[:, None], seen.shape))


@pytest.mark.parametrize("layers", slow_but(MIXUPS, "none", "any"))
def test_4_the_bottleneck_trains_with_every_mixup_and_without(layers):
    # Theirs fails with any mixup but one, and without. What mixing does, other tests show.
    step, state, batch = _train_step({"name": "mbt"}, layers=layers)
    after, metrics = jax.eval_shape(step, state, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert metrics.example_loss.shape == (tiny_sft.BATCH,)


def test_5_a_static_share_is_no_obstacle_to_training():
    step, state, batch = _train_step({}, layers="any", shares="static")
    after, _ = jax.eval_shape(step, state, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


@functools.cache
def _loss(**mixup):
    """Loss of a batch whose labels are all the same, so that mixing these changes nothing."""
    step, state, batch = _train_step({}, **mixup)
    return jax.jit(lambda state, batch: step(state, batch)[1].loss)(state, batch)


@pytest.mark.parametrize("layers", slow_but(["within", "fused"], "within"))
def test_7_features_are_mixed_whatever_the_mixup(layers):
    # Their "cross" mixes labels alone.
    assert abs(_loss(layers=layers) - _loss()) > 1e-4


LENGTH, SLOTS = 12, 4


def _drawn(right, padding=0):
    """For each slot, the positions drawn in 200 draws; padding is negative."""
    length = LENGTH - 2 * padding
    kernel = LENGTH // SLOTS
    if not right:
        # They view the sequence as `[kernel, slots]` and draw a row of each column.
        padded = np.pad(np.arange(length), padding, constant_values=-1).reshape(kernel, SLOTS)
        rows = np.random.default_rng(0).integers(kernel, size=(200, SLOTS))
        return [set(slot) for slot in np.take_along_axis(padded, rows, axis=0).T.tolist()]
    tokens = Tokens(jnp.zeros((200, length, 1)), jnp.ones((200, length), bool))
    windows = ReferenceWindows(kernel, kernel, padding) if padding else None
    reducer = Reducer("strided_random", SLOTS, reference_windows=windows)
    rngs = {"pool": jax.random.key(0, impl="rbg")}
    apply = functools.partial(reducer.apply, {}, train=True, rngs=rngs, mutable=["intermediates"])
    _, state = apply(tokens, jnp.ones((200, length)))
    return [set(slot) for slot in state["intermediates"]["index"][0].T.tolist()]


@both
def test_8_a_random_token_is_of_a_contiguous_window(right):
    contiguous = [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}, {9, 10, 11}]
    interleaved = [{0, 4, 8}, {1, 5, 9}, {2, 6, 10}, {3, 7, 11}]
    assert _drawn(right) == (contiguous if right else interleaved)


@both
def test_8_padding_is_never_selected(right):
    drawn = _drawn(right, padding=1)
    assert set.union(*drawn) >= set(range(10))
    assert all(position >= 0 for slot in drawn for position in slot) == right


@pytest.mark.parametrize(
    "pool", slow_but(["max", "attn_topk", *tiny_sft.LEARNED_POOLS], "attn_topk", "perceiver")
)
def test_10_every_parameter_has_an_effect(pool):
    masks = {modality: np.ones_like(mask) for modality, mask in tiny_sft.masks().items()}
    cotangent = np.random.default_rng(9).normal(size=(tiny_sft.BATCH, 4)).astype(np.float32)
    _, (gradients, _) = tiny_sft.compiled(pool)(tiny_sft.inputs(), masks, cotangent)
    for path, gradient in flax.traverse_util.flatten_dict(gradients).items():
        # To add the same to every key changes no softmax.
        assert path[-2:] == ("key", "bias") or (gradient != 0).any(), path


@both
def test_10_cls_counts_once(right):
    again = {} if right else {"reference_fusion_layer": tiny_sft.K}
    model = tiny_sft.sft(pool="max", n_pre=0, n_post=0, **again)
    tensors = _intermediates(model, tiny_sft.inputs())
    cls = sum(tensors[f"pooling_{modality}"]["__call__"][0][0] for modality in tiny_sft.MODALITIES)
    fused = tensors["fused_input"][0].values[:, 0]
    assert np.allclose(fused, cls, rtol=1e-6) == right
    # Theirs is a multiple of it by the number of modalities.
    np.testing.assert_allclose(fused, cls if right else 2 * cls, rtol=1e-6)


@both
@pytest.mark.parametrize("pool", tiny_sft.WINDOWED_POOLS)
def test_14_exactly_k_tokens_at_any_length(pool, right):
    for length, k in ((38, 3), (50, 3), (500, 3), (12, 5)):
        windows = None if right else ReferenceWindows.from_k(length, k)
        reducer = functools.partial(Reducer(pool, k, reference_windows=windows).apply, {})
        tokens = Tokens(jnp.ones((1, length, 1)), jnp.ones((1, length), bool))
        pooled = jax.eval_shape(reducer, tokens, jnp.ones((1, length)))
        assert pooled.mask.shape == (1, k if right else k - 1), (length, k)


@pytest.mark.parametrize("pool", ["channel_topk", "attn_topk"])
def test_15_top_k_needs_no_more_than_k(pool):
    config = config_io.from_mapping({"model": {"pool": pool, "k": 3, "n_pre": 0, "n_post": 0}})
    model = build_model(config.model, tiny_sft.MODALITIES, 4)
    apply = functools.partial(model.init_with_output, mutable=["params", "intermediates"])
    _, state = jax.eval_shape(apply, jax.random.key(0), tiny_sft.inputs())
    assert state["intermediates"]["fused_input"][0].mask.shape == (tiny_sft.BATCH, 1 + 2 * 3)


def test_25_the_global_generator_of_numpy_is_not_used():
    source = synthetic.dataset(train=20, valid=1).source("train")
    drawn = []
    for seed in (0, 1):
        np.random.seed(seed)
        before = np.random.get_state()
        _, ids = next(pipeline.train_iterator(source, 16, seed=0))
        key = jax.random.key(0, impl="rbg")
        drawn.append(
            (ids.tolist(), draw_mixup(key, 16, "ab", alpha=0.3, layers=(0, 4), joint_from=2))
        )
        if not seed:
            # What else a step draws, if it came from numpy, would be drawn in tracing it.
            model = {"pool": "attn_random", "dropout": 0.1, "n_pre": 0}
            jax.eval_shape(*_train_step(model, layers="any"))
        after = np.random.get_state()
        np.testing.assert_array_equal(after[1], before[1])
        assert after[2:] == before[2:]
    assert drawn[0][0] == drawn[1][0]
    chex.assert_trees_all_equal(drawn[0][1], drawn[1][1])


@pytest.mark.parametrize("file", [mosei, vggsound])
def test_26_their_experiments_are_run_in_full(file):
    # Theirs stops after 5 epochs, of 11 batches each, and evaluates on 10 or 11.
    config = config_io.from_mapping(file.get_config())
    assert (config.train.epochs, config.mixup.warmup_epochs, config.model.n_post) == (20, 5, 11)
    size, source = config.train.batch_size, synthetic.dataset(train=312, valid=1).source("train")
    plan = Plan.from_config(config, len(source))
    assert plan.total_steps * size == 20 * len(source)
    assert sorted(plan.evaluate_at) == [13 * epoch for epoch in range(1, 21)]
    batches = pipeline.train_iterator(source, size, config.seed)
    everything = {example["id"] for example in source}
    assert {name for _ in range(13) for name in next(batches)[1]} == everything
    assert {name for _, ids in pipeline.eval_batches(source, size) for name in ids} == everything


def _equations(jaxpr):
    """All steps of a computation, those within calls and loops too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)  # Closed or not.
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def _shapes(model, variables, products_alone=False):
    """Shapes of the arrays on the way to the logits, or of the matrix products among them."""
    jaxpr = jax.make_jaxpr(model.apply)(variables, tiny_sft.inputs()).jaxpr
    needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    for equation in _equations(needed):
        if not products_alone or equation.primitive.name == "dot_general":
            yield from (out.aval.shape for out in equation.outvars)


@pytest.mark.parametrize("name", MODELS)
def test_27_width_and_heads_are_those_of_the_config(name):
    attributes = {"name": name, "width": 12, "num_heads": 3, "n_post": 1, "k": 2}
    own = {"modality": "sight"} if name == "unimodal" else {}
    config = config_io.from_mapping({"model": attributes | own})
    model = build_model(config.model, tiny_sft.MODALITIES, 4)
    variables = jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())
    assert variables["params"]["tokenizer_sight"]["cls"].shape == (1, 1, 12)
    # Attention multiplies by head, with weights and with values.
    products = _shapes(model, variables, products_alone=True)
    heads = {shape[1] for shape in products if len(shape) == 4}
    assert heads == {3}


@pytest.mark.parametrize(("pool", "salient"), [("max", False), ("attn", True)])
def test_28_weights_are_averaged_over_heads_for_saliency_alone(pool, salient):
    # Theirs does so in every attention. Sight has 6 tokens beside CLS, sound has 7; 9 are
    # fused, and CLS alone attends in the only block. Nothing else has such a size.
    model = tiny_sft.sft(pool=pool, k=4, width=12)
    shapes = set(_shapes(model, tiny_sft.normal_variables(model, model.example_inputs())))
    for queries, keys in ((7, 7), (8, 8), (1, 9)):
        assert (tiny_sft.BATCH, 2, queries, keys) in shapes
    assert not shapes & {(tiny_sft.BATCH, n, n) for n in (8, 9)}
    # Saliency takes the weights without CLS.
    assert ((tiny_sft.BATCH, 2, 6, 6) in shapes) == salient
