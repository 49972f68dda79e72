"""Models, pools, kernels and tokenizers of other packages, named by import path."""

import dataclasses
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import synthetic
import tiny_sft

from sft_jax import Batch, ModalitySpec, SparseFusionTransformer, Tokens, config_io
from sft_jax.config import MeshConfig, ModelConfig
from sft_jax.modules.factory import build_model
from sft_jax.modules.multimodal import MultimodalClassifier, presence
from sft_jax.ops.attention import kernels
from sft_jax.ops.attention.plain import apply_weights, attention_weights, saliency
from sft_jax.ops.losses import cross_entropy
from sft_jax.ops.modalities import sum_over_present
from sft_jax.ops.pool import POOLS, Pool
from sft_jax.parallel import sharding
from sft_jax.profile.flops import STAGES, forward_stages, total
from sft_jax.training.step import make_train_step

MODALITIES = {"sight": ModalitySpec((4, 4), 3, patch_size=2), "sound": ModalitySpec(7, 2)}
SMALL = {"width": 8, "num_heads": 2, "n_pre": 1, "n_post": 1, "k": 2}


class ConvNet(nn.Module):
    """One token for each 2 x 2 pixels, with a submodule of its own."""

    norm: nn.Module | None = None

    @nn.compact
    def __call__(self, values, mask):
        hidden = nn.Conv(6, (2, 2), strides=2, name="out")(values)
        if self.norm is not None:
            hidden = self.norm(hidden)
        real = mask.reshape(len(mask), 2, 2, -1, 2).any(axis=(2, 4))
        return Tokens(hidden.reshape(len(mask), -1, 6), real.reshape(len(mask), -1))


class NeedsAnArgument(nn.Module):
    """A module that a config can't make."""

    size: int

    def __call__(self, values, mask):
        return Tokens(values, mask)


class SumFusion(MultimodalClassifier):
    """A model whose blocks fit no stage of the profile."""

    def compute_logits(self, streams, *, train, mixup):
        for i in range(self.n_pre):
            for name, tokens in streams.items():
                streams[name] = self.make_block(f"mine_{name}_{i}")(tokens, train=train)
            if mixup is not None:
                streams = mixup.streams(i, streams)
        cls = [tokens.values[:, 0] for tokens in streams.values()]
        return self.make_head()(sum_over_present(cls, presence(streams)))


class Bare(nn.Module):
    """A module that is no model."""


def _plain(query, key, value, mask, sizes, *, with_saliency):
    weights = attention_weights(query, key, mask, sizes)
    attended = apply_weights(weights, value)
    return attended, saliency(weights, mask) if with_saliency else None


conv_net = ConvNet(nn.LayerNorm())
first = Pool(POOLS["attn_topk"].function, ("saliency",))
kernel = _plain
no_pool = POOLS["max"].function


def squared_margin(outputs, labels, smoothing):
    return jnp.square(outputs - jax.nn.one_hot(labels, outputs.shape[-1])).sum(axis=-1)


HERE = "outside_objects_of_a_test"
sys.modules[HERE] = sys.modules[__name__]


def _inputs(batch=3, seed=0):
    return tiny_sft.inputs(seed, batch, MODALITIES)


def _masks(batch=3):
    """All real; part of the picture; no picture."""
    sight = np.ones((batch, 4, 4), bool)
    sight[1, 2:] = False
    sight[2] = False
    return {"sight": sight, "sound": np.ones((batch, 7), bool)}


def _built(**fields):
    return build_model(ModelConfig(**SMALL | fields), MODALITIES, 4)


def _logits(model, inputs, masks=None):
    variables = tiny_sft.normal_variables(model, model.example_inputs())
    return np.asarray(jax.jit(model.apply)(variables, inputs, masks))


TOKENIZERS = {"sight": f"{HERE}:conv_net"}
OUTSIDE = {
    "tokenizer": {"tokenizers": TOKENIZERS},
    "model": {"name": f"{HERE}:SumFusion", "n_post": 0},
    "pool": {"pool": f"{HERE}:first"},
    "kernel": {"attention_kernel": f"{HERE}:kernel"},
}


def _train_step(fields, loss="auto", mixup="none"):
    config = config_io.from_mapping(
        {"model": SMALL | fields, "train": {"loss": loss}, "mixup": {"layers": mixup}}
    )
    model = build_model(config.model, MODALITIES, 4)
    params = tiny_sft.normal_variables(model, model.example_inputs())["params"]
    optimizer = optax.sgd(0.1)
    state = synthetic.first_state(params, optimizer)
    batch = Batch(_inputs(), _masks(), np.arange(3), np.ones(3, np.float32))
    step = make_train_step(model, optimizer, config.train, config.mixup, 0)
    return state, *jax.jit(step)(state, batch), model, batch


def test_a_tokenizer_of_an_import_path_trains_with_mixup():
    before, after, metrics, _, _ = _train_step(
        {"tokenizers": TOKENIZERS, "n_post": 0}, mixup="within"
    )
    assert np.isfinite(metrics.loss)
    assert all(jax.tree.leaves(metrics.finite))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, after.params)
    assert all(jax.tree.leaves(changed["tokenizer_sight"]["embed"]))


def test_a_model_and_a_loss_of_an_import_path_train():
    before, after, metrics, model, batch = _train_step(OUTSIDE["model"], f"{HERE}:squared_margin")
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, after.params)
    assert changed["mine_sight_0"]["mlp_in"]["kernel"]
    logits = jax.jit(model.apply)({"params": before.params}, batch.inputs, batch.masks)
    expected = squared_margin(logits, batch.labels, 0)
    np.testing.assert_allclose(metrics.example_loss, expected, rtol=1e-4)
    assert abs(expected - cross_entropy(logits, batch.labels)).max() > 0.1


@pytest.mark.parametrize("seam", ["pool", "kernel"])
def test_our_own_by_import_path_gives_the_same_logits(seam):
    inputs, masks = _inputs(), _masks()
    np.testing.assert_allclose(
        _logits(_built(n_post=0, **OUTSIDE[seam]), inputs, masks),
        _logits(_built(n_post=0), inputs, masks),
        rtol=1e-5,
    )


def test_a_tokenizer_sees_no_padding_and_an_absent_modality_counts_nothing():
    model = _built(tokenizers=TOKENIZERS, n_post=0)
    inputs, masks = _inputs(), _masks()
    expected = _logits(model, inputs, masks)
    hidden = {"sight": np.where(masks["sight"][..., None], inputs["sight"], np.nan)}
    np.testing.assert_array_equal(_logits(model, inputs | hidden, masks), expected)
    left_out = _logits(model, {"sound": inputs["sound"]})
    np.testing.assert_allclose(left_out[2], expected[2], rtol=1e-5, atol=1e-6)
    assert abs(left_out[0] - expected[0]).max() > 1e-3


def test_the_type_of_the_computation_holds_after_a_tokenizer():
    model = _built(tokenizers=TOKENIZERS, n_post=0, dtype="bfloat16")
    variables = tiny_sft.normal_variables(model, model.example_inputs())
    _, state = jax.eval_shape(
        lambda: model.apply(
            variables, _inputs(), mutable=["intermediates"], capture_intermediates=True
        )
    )
    tokens = state["intermediates"]["tokenizer_sight"]["__call__"][0]
    assert tokens.values.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


@pytest.mark.parametrize("seam", ["tokenizer", "model"])
def test_parameters_of_any_name_are_divided_without_changing_logits(seam):
    model = _built(n_post=0, **{k: v for k, v in OUTSIDE[seam].items() if k != "n_post"})
    variables = tiny_sft.normal_variables(model, model.example_inputs())
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=2, model=2), jax.devices()[:4])
    placed = jax.device_put(variables["params"], sharding.place(variables["params"], mesh))
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(placed))
    inputs, masks = _inputs(), _masks()
    divided = jax.jit(model.apply)({"params": placed}, inputs, masks)
    expected = jax.jit(model.apply)(variables, inputs, masks)
    np.testing.assert_allclose(divided, expected, rtol=1e-4, atol=1e-5)


def test_costs_of_a_tokenizer_count_as_the_stage_tokenizer():
    own, patches = (forward_stages(_built(n_post=0, tokenizers=t)) for t in (TOKENIZERS, {}))
    assert own["tokenizer"].matmul_flops - patches["tokenizer"].matmul_flops == (
        2 * 4 * 12 * 6 + 2 * 4 * (6 - 12) * 8  # The convolution; a projection of 6 features.
    )
    for stage in set(STAGES) - {"tokenizer"}:
        assert own[stage] == patches[stage]


def test_costs_of_blocks_of_other_names_count_as_other():
    model = _built(name=f"{HERE}:SumFusion")
    stages = forward_stages(model)
    known = _built(name="late", n_post=0)
    assert stages["unimodal"].flops == stages["fused"].flops == 0
    assert stages["other"].matmul_flops == forward_stages(known)["unimodal"].matmul_flops
    assert total(stages).flops == sum(cost.flops for cost in stages.values())


def test_a_model_takes_the_fields_that_its_class_has():
    model = _built(name=f"{HERE}:SumFusion", width=16, tokenizers=TOKENIZERS)
    assert isinstance(model, SumFusion)
    assert (model.width, model.num_classes, dict(model.modalities)) == (16, 4, MODALITIES)
    assert model.tokenizers["sight"] == conv_net


def test_each_modality_has_a_tokenizer_of_its_own():
    modalities = {name: MODALITIES["sight"] for name in ("left", "right")}
    model = SparseFusionTransformer(
        4, modalities, **SMALL, tokenizers=dict.fromkeys(modalities, conv_net)
    )
    params = jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())["params"]
    assert {*params["tokenizer_left"]["embed"]} == {*params["tokenizer_right"]["embed"]}
    assert {*params["tokenizer_left"]["embed"]} == {"norm", "out"}
    assert hash(model) == hash(dataclasses.replace(model))


TOO_MANY = Tokens(jnp.zeros((1, 5, 2)), jnp.ones((1, 5), bool))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (jnp.zeros((1, 4, 2)), r"tokenizer_sight must return Tokens .* got ArrayImpl"),
        (TOO_MANY, r"\[1, 1 to 4, features\] and their mask, got values \[1, 5, 2\]"),
        (Tokens(jnp.zeros((1, 4)), TOO_MANY.mask), r"got values \[1, 4\]"),
        (Tokens(jnp.zeros((1, 4, 2), int), TOO_MANY.mask), "must return floats, got int32"),
        (Tokens(jnp.zeros((1, 4, 2)), jnp.ones((1, 4))), r"mask of booleans \[1, 4\], got float32"),
        (
            Tokens(jnp.zeros((1, 4, 2)), jnp.ones((1, 4), bool), jnp.ones((1, 4))),
            "tokens with sizes=None",
        ),
    ],
)
def test_a_wrong_result_of_a_tokenizer_is_named(value, message):
    class Fixed(nn.Module):
        def __call__(self, values, mask):
            return value

    model = tiny_sft.sft(modalities=MODALITIES, tokenizers={"sight": Fixed()})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())


def test_a_tokenizer_of_an_unknown_modality_is_named():
    model = tiny_sft.sft(modalities=MODALITIES, tokenizers={"smell": conv_net})
    with pytest.raises(ValueError, match=r"tokenizers names \['smell'\], the modalities are \['si"):
        model.init(jax.random.key(0), model.example_inputs())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizers": {"sight": f"{HERE}:kernel"}}, "tokenizers.sight=.* must be a flax.linen"),
        ({"tokenizers": {"sight": f"{HERE}:NeedsAnArgument"}}, "can't be made without arguments"),
        ({"tokenizers": {"sight": f"{HERE}:Missing"}}, "sight=.* has no attribute 'Missing'"),
        ({"name": f"{HERE}:kernel"}, "model.name=.* must be a flax.linen.Module class"),
        ({"name": f"{HERE}:Bare"}, "model.name=.* lacks num_classes, modalities, num_heads,"),
        ({"name": "no_such_package:Model"}, "model.name=.* there is no module 'no_such_package'"),
    ],
)
def test_a_wrong_import_path_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        _built(**fields)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"pool": f"{HERE}:no_pool"}, "pool=.* must be a sft_jax.ops.pool.Pool, got function"),
        ({"pool": "largest"}, "pool='largest' is not one of max, avg, .* nor an import path"),
        ({"pool": Pool(lambda tokens, k: tokens.values)}, "must return sft_jax.Tokens, or Tokens"),
        (
            {"attention_kernel": lambda *args, with_saliency: (args[0], None)},
            r"must return the saliency of shape \(1, 4\), got None",
        ),
        (
            {"attention_kernel": lambda *args, with_saliency: (args[0][:, 1:], None)},
            r"must return the weighted sums of shape \(1, 5, 2, 4\), got shape \(1, 4, 2, 4\)",
        ),
    ],
)
def test_a_wrong_pool_or_kernel_is_named(attributes, message):
    modalities = {"sight": MODALITIES["sight"]}
    model = tiny_sft.sft(modalities=modalities, n_pre=0, **attributes)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())


def test_the_former_name_of_a_kernel_is_taken_everywhere():
    assert ModelConfig(attention_kernel="blocked").attention_kernel == "tiled"
    query = jnp.zeros((1, 2, 1, 1))
    assert kernels.choose_kernel("blocked", query, query) is kernels.tiled
    model = tiny_sft.sft(attention_kernel="blocked")
    jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())


def test_a_pool_with_parameters_takes_the_attributes_that_it_has():
    class Queries(nn.Module):
        k: int

        @nn.compact
        def __call__(self, tokens):
            queries = self.param("queries", nn.initializers.ones, (self.k, tokens.values.shape[2]))
            batch = tokens.mask.shape[0]
            kept = jnp.broadcast_to(queries, (batch, *queries.shape))
            return Tokens(kept, jnp.ones(kept.shape[:2], bool))

    model = tiny_sft.sft(n_pre=0, pool=Pool(module=Queries))
    params = jax.eval_shape(model.init, jax.random.key(0), model.example_inputs())["params"]
    shapes = jax.tree.map(lambda leaf: leaf.shape, params["pooling_sight"]["reducer"])
    assert shapes == {"learned": {"queries": (tiny_sft.K, 8)}}
