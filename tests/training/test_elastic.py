"""Training for several numbers of kept tokens at once."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic
import tiny_sft
from sparing import slow

from sft_jax import Batch, config_io
from sft_jax.config import MixupConfig, ModelConfig, TrainConfig
from sft_jax.modules.budget import with_budget
from sft_jax.modules.factory import build_model
from sft_jax.ops.losses import example_losses
from sft_jax.parallel import sharding
from sft_jax.training import assembly
from sft_jax.training.elastic import distillation
from sft_jax.training.step import STREAMS, loss_fn

pytestmark = pytest.mark.process

KEYS = {name: jax.random.key(i) for i, name in enumerate(STREAMS)}
LABELS = np.array([0, 2, 3], np.int32)
# One number lies between the others, so that no draw matters.
BUDGETS = (2, 0, 3)
TASK_LABELS = {
    "single_label": LABELS,
    "ordinal": LABELS,
    "multi_label": np.eye(4, dtype=np.float32)[LABELS],
    "regression": np.eye(4, dtype=np.float32)[LABELS],
}


def _batch(task="single_label"):
    labels = TASK_LABELS[task]
    return Batch(tiny_sft.inputs(), tiny_sft.masks(), labels, np.ones(3, np.float32))


def _by_hand(params, model, batch, smoothing):
    """Mean over the budgets, each by a forward pass of a model of its own."""

    def outputs(k):
        logits = with_budget(model, k).apply({"params": params}, batch.inputs, batch.masks)
        return logits, example_losses(model.task, logits, batch.labels, smoothing)

    teacher, total = outputs(3)
    for k in (0, 2):
        logits, losses = outputs(k)
        total += (losses + distillation(model.task, logits, teacher)) / 2
    return total.mean() / 3


@pytest.mark.parametrize(
    ("attributes", "task"),
    [
        ({"pool": "max", "n_pre": 0}, "single_label"),
        slow(({}, "single_label")),
        slow(({"pool": "attn", "readout": "modality_cls"}, "multi_label")),
        slow(({"pool": "token_learner", "readout": "attention"}, "regression")),
        slow(({"pool": "tome", "n_post": 3}, "ordinal")),
    ],
)
def test_the_gradient_is_that_of_the_mean_over_budgets(attributes, task):
    model = tiny_sft.sft(task=task, **attributes)
    params = tiny_sft.normal_variables(model, model.example_inputs())["params"]
    train = TrainConfig(elastic_k=BUDGETS, label_smoothing=0.1 * (task != "regression"))

    def elastic(params):
        return loss_fn(params, model, _batch(task), KEYS, train, MixupConfig())[0].mean()

    by_hand = functools.partial(
        _by_hand, model=model, batch=_batch(task), smoothing=train.label_smoothing
    )
    loss, gradient = jax.jit(jax.value_and_grad(elastic))(params)
    expected, expected_gradient = jax.jit(jax.value_and_grad(by_hand))(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        other = functools.reduce(lambda tree, key: tree[key.key], path, expected_gradient)
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5, err_msg=str(path))


def test_every_budget_between_is_drawn():
    model = tiny_sft.sft(n_pre=0, pool="max")
    params = tiny_sft.normal_variables(model, model.example_inputs())["params"]

    @functools.partial(jax.jit, static_argnums=1)
    def loss(key, budgets):
        keys = KEYS | {"budget": key}
        train = TrainConfig(elastic_k=budgets)
        return loss_fn(params, model, _batch(), keys, train, MixupConfig())[0].mean()

    def each(budgets):
        return {float(loss(jax.random.key(i), budgets)) for i in range(12)}

    alone = [each((0, k, 5)) for k in (1, 2, 4)]
    assert [len(losses) for losses in alone] == [1, 1, 1]
    np.testing.assert_allclose(sorted(each((0, 1, 2, 4, 5))), sorted(map(max, alone)), rtol=1e-6)


@pytest.mark.parametrize("task", TASK_LABELS)
def test_distillation_is_least_at_the_outputs_it_learns_from(task):
    random = np.random.default_rng(0)
    teacher, outputs = jnp.asarray(random.normal(size=(2, 3, 4)).astype(np.float32))
    if task == "ordinal":
        teacher, outputs = jax.nn.log_softmax(teacher), jax.nn.log_softmax(outputs)
    total = lambda *args: distillation(task, *args).sum()  # noqa: E731
    gradients = jax.grad(total, (0, 1))(outputs, teacher)
    assert np.abs(gradients[0]).max() > 0.01
    assert (gradients[1] == 0).all()
    np.testing.assert_allclose(jax.grad(total)(teacher, teacher), 0, atol=1e-6)
    assert (distillation(task, outputs, teacher) > distillation(task, teacher, teacher)).all()


# 50 examples in batches of 16 over 2 epochs: 7 steps.
ELASTIC = {
    "train__batch_size": 16,
    "train__accumulate": 2,
    "train__elastic_k": (0, 1, 3, 6),
    "mixup__layers": "fused",
    "mixup__warmup_epochs": 0.0,
}


def _losses(workdir, devices=1, until=99, **changes):
    result = None
    with contextlib.suppress(synthetic.Killed):
        result, evaluator = synthetic.run(
            workdir,
            synthetic.config(**ELASTIC | changes),
            devices=jax.devices()[:devices],
            wrap=synthetic.ending_after(until),
        )
        assert (result.train_compiles, evaluator.compiles) == (1, 1)
    return result, synthetic.training_losses(workdir)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return _losses(tmp_path_factory.mktemp("unbroken"))


def test_a_killed_run_goes_on_with_the_same_draws(unbroken, tmp_path):
    result, losses = unbroken
    assert len(losses) == 7
    assert np.isfinite(losses).all()
    killed, _ = _losses(tmp_path, until=5)
    assert killed is None
    resumed, again = _losses(tmp_path)
    assert again == losses
    assert synthetic.fingerprint(resumed.state) == synthetic.fingerprint(result.state)


@pytest.mark.slow
def test_no_number_depends_on_the_mesh(unbroken, tmp_path):
    axes = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__model": 2}
    _, losses = _losses(tmp_path, 8, **axes)
    np.testing.assert_allclose(losses, unbroken[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("train", {"elastic_k": [4]}, r"elastic_k=\(4,\) must be empty, or at least two numbers"),
        ("train", {"elastic_k": [1, 4, 1]}, r"elastic_k=\(1, 4, 1\) must be .* each once"),
        ("train", {"elastic_k": [-1, 4]}, "elastic_k"),
        ("model", {"name": "mbt"}, "needs model.name='sft' .* got 'mbt' and 'attn_topk'"),
        ("model", {"pool": "none"}, "needs .* a model.pool that keeps k tokens, got 'sft' and"),
    ],
)
def test_wrong_budgets_of_a_config_are_named(section, fields, message):
    values = config_io.to_json(synthetic.config(train__elastic_k=(0, 2)))
    values[section] |= fields
    with pytest.raises(config_io.ConfigError, match=message):
        config_io.from_mapping(values)


@pytest.mark.parametrize(
    ("fields", "budgets", "message"),
    [
        ({}, (0, 9), r"train.elastic_k=\(0, 9\): .*k=9 for modality 'sight', which has 6 tokens"),
        ({"pool": "perceiver", "k": 2}, (0, 4), "k=4 for modality 'sight': pool='perceiver' has"),
        ({"readout": "fresh_cls"}, (0, 4), "k=0 with readout='fresh_cls'"),
        ({"name": "late"}, (0, 4), "elastic_k=.* must be .. for LateFusion: SparseFusion"),
    ],
)
def test_budgets_that_do_not_fit_the_model_are_refused(fields, budgets, message):
    config = synthetic.config(train__elastic_k=budgets)
    small = {"width": 8, "num_heads": 2}
    model = build_model(ModelConfig(**small | fields), synthetic.MODALITIES, 3)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match=message):
        assembly.assemble(config, model, num_examples=50, mesh=mesh)
