"""Training for several patch sizes at once."""

import collections
import contextlib
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic
import tiny_sft

from sft_jax import Batch, config_io
from sft_jax.config import MixupConfig, TrainConfig
from sft_jax.modules.simple_fusion import LateFusion
from sft_jax.modules.stride import resize_params, with_stride
from sft_jax.parallel import sharding
from sft_jax.training import assembly
from sft_jax.training.step import STREAMS, loss_fn
from sft_jax.training.strides import draw_stride, strided_trainings

STRIDES = (2, 1, 4)


def _batch(size=3):
    inputs = tiny_sft.inputs(batch=size)
    masks = {name: np.ones(array.shape[:-1], bool) for name, array in inputs.items()}
    return Batch(inputs, masks, np.zeros(size, np.int32), np.ones(size, np.float32))


def _assembled(model=None, devices=1, **changes):
    config = synthetic.config(**changes)
    model = model or tiny_sft.sft(n_pre=0, k=2)
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:devices])
    return assembly.assemble(config, model, num_examples=50, mesh=mesh)


def test_each_stride_is_drawn_equally_often():
    draws = [draw_stride(STRIDES, 0, step) for step in range(300)]
    assert collections.Counter(draws) == dict.fromkeys(STRIDES, 100)
    # Every order occurs.
    assert len({tuple(draws[i : i + 3]) for i in range(0, 300, 3)}) == 6


def test_a_draw_depends_on_seed_and_step_alone():
    draws = [[draw_stride(STRIDES, seed, step) for step in range(12)] for seed in (0, 1)]
    assert draws[0] != draws[1]
    assert [draw_stride((4, 2, 1), 0, step) for step in reversed(range(12))] == draws[0][::-1]
    # A change would break the resumption of runs.
    assert draws[0] == [1, 2, 4, 2, 4, 1, 2, 4, 1, 1, 4, 2]


def test_stride_one_has_the_program_of_a_run_without_strides():
    programs = []
    for strides in ((), (1, 2)):
        assembled = _assembled(train__elastic_patch=strides)
        assert [*assembled.steps] == [1, 2][: 1 + bool(strides)]
        lowered = assembled.step.lower(assembled.like, _batch(), np.int32(0))
        programs.append(lowered.as_text())
    assert programs[0] == programs[1]


@pytest.mark.process
def test_the_gradient_is_that_of_the_resized_model():
    assembled = _assembled(train__elastic_patch=(1, 2), optim__warmup_epochs=0.0, optim__lr=0.1)
    model, state = assembled.model, assembled.new_state(0)
    batch = _batch()
    keys = {name: jax.random.key(0) for name in STREAMS}

    def loss(params):
        resized, larger = resize_params(model, params, 2), with_stride(model, 2)
        return loss_fn(resized, larger, batch, keys, TrainConfig(), MixupConfig())[0].mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(state.params)
    norms = jax.tree.map(np.linalg.norm, gradient["tokenizer_sight"])
    assert min(jax.tree.leaves(norms)) > 0
    total = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    _, metrics = assembled.steps[2](state, batch, np.int32(0))
    np.testing.assert_allclose(metrics.loss, value, rtol=1e-5)
    np.testing.assert_allclose(metrics.gradient_norm, total, rtol=1e-4)


# 50 examples in batches of 16 over 2 epochs: 7 steps.
CHANGES = {"train__batch_size": 16, "train__ema_decay": 0.9, "train__elastic_patch": (1, 2)}
MORE = {
    "train__accumulate": 2,
    "train__modality_dropout": 0.2,
    "train__elastic_patch": STRIDES,
    "train__elastic_k": (0, 1, 5),
    "mixup__layers": "any",
    "mixup__warmup_epochs": 0.0,
}


def _run(workdir, devices=1, until=99, **changes):
    result = None
    with contextlib.suppress(synthetic.Killed):
        result, _ = synthetic.run(
            workdir,
            synthetic.config(**CHANGES | changes),
            devices=jax.devices()[:devices],
            wrap=synthetic.ending_after(until),
        )
    return result, synthetic.training_losses(workdir)


@pytest.mark.process
def test_a_killed_run_goes_on_with_the_same_strides(tmp_path):
    result, losses = _run(tmp_path / "unbroken")
    assert result.train_compiles == 2
    assert len(losses) == 7
    killed, _ = _run(tmp_path / "killed", until=5)
    assert killed is None
    resumed, again = _run(tmp_path / "killed")
    assert again == losses
    states = (jax.device_get(run.state) for run in (result, resumed))
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.slow
def test_no_number_depends_on_the_mesh(tmp_path):
    axes = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__model": 2}
    _, expected = _run(tmp_path / "one", **MORE)
    result, losses = _run(tmp_path / "mesh", 8, **MORE | axes)
    assert result.train_compiles == 3
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)


def test_a_step_combines_with_all_other_options():
    assembled = _assembled(**CHANGES | MORE)
    assert [*assembled.steps] == [1, 2, 4]
    with jax.numpy_rank_promotion("raise"):
        arguments = assembled.like, _batch(16), np.int32(0)
        state, metrics = jax.eval_shape(assembled.steps[4], *arguments)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, assembled.like)
    assert metrics.example_loss.shape == (16,)


def test_budgets_beyond_the_tokens_become_their_number():
    # At stride 4 sight has 2 tokens.
    train = TrainConfig(elastic_patch=(4, 1), elastic_k=(0, 1, 2, 5))
    trainings = strided_trainings(tiny_sft.sft(), train)
    assert {s: own.elastic_k for s, own in trainings.items()} == {1: (0, 1, 2, 5), 4: (0, 1, 2)}
    with pytest.raises(ValueError, match=r"at stride 4 .*'sight' has 2 tokens, .* becomes 2; add"):
        strided_trainings(tiny_sft.sft(), dataclasses.replace(train, elastic_k=(2, 5)))


def test_kernels_are_for_the_largest_stride_unless_the_config_says_otherwise():
    config = synthetic.config(train__elastic_patch=(1, 4, 2))
    assert config.model.tokenizer_stride == 4
    assert config_io.from_mapping(config_io.to_json(config)) == config
    config = synthetic.config(train__elastic_patch=(1, 4), model__tokenizer_stride=1)
    assert config.model.tokenizer_stride == 1


@pytest.mark.parametrize("strides", [[1], [2, 4], [1, 2, 2], [0, 1]])
def test_wrong_strides_of_a_config_are_named(strides):
    values = config_io.to_json(synthetic.config())
    values["train"]["elastic_patch"] = strides
    with pytest.raises(config_io.ConfigError, match="elastic_patch"):
        config_io.from_mapping(values)


class _Counting(LateFusion):
    """A model with a parameter for each token."""

    def compute_logits(self, streams, *, train, mixup):
        zeros = nn.initializers.zeros
        scale = self.param("scale", zeros, (1, streams["sight"].values.shape[1], 1))
        streams["sight"] = streams["sight"].replace(values=streams["sight"].values + scale)
        return super().compute_logits(streams, train=train, mixup=mixup)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (tiny_sft.sft(), "stride=7 for modality 'sight': patches of .* allowed are 1 to 6"),
        (
            _Counting(num_classes=3, modalities=synthetic.MODALITIES, width=8, num_heads=2),
            r'stride=2: a parameter of _Counting depends .* "scale"',
        ),
    ],
)
def test_strides_that_do_not_fit_the_model_are_refused(model, message):
    strides = (1, 2) if isinstance(model, _Counting) else (1, 7)
    with pytest.raises(ValueError, match=rf"train.elastic_patch=\(1, .\): {message}"):
        _assembled(model, train__elastic_patch=strides)
