"""Initial parameters against those of the authors' code.

| part of `init_stats.json` | what it checks |
| --- | --- |
| `sft` | `SparseFusionTransformer` |
| `MulT` | `CrossmodalTransformer` |
| `mbt` | `BottleneckTransformer`; its learned bottleneck has no counterpart |
| `concat` | `ConcatFusion` |

For each parameter the file holds mean, root mean square and largest magnitude over 20 seeds.
"""

import functools
import json
import math
import statistics

import flax.traverse_util
import jax
import numpy as np
import pytest
import reference
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters import partial_eval
from sparing import slow_but

from sft_jax import ModalitySpec, SparseFusionTransformer
from sft_jax.modules.mbt import BottleneckTransformer
from sft_jax.modules.mult import CrossmodalTransformer
from sft_jax.modules.simple_fusion import ConcatFusion

SEEDS = 20  # Theirs and ours.
# Of chance, for each of some 1000 comparisons.
IMPROBABLE = 1e-8
DEVIATIONS = statistics.NormalDist().inv_cdf(1 - IMPROBABLE / 2)

# Ours, by the names of theirs.
MODELS = {
    "sft": (SparseFusionTransformer, {"n_pre": 1, "n_post": 2}),
    "MulT": (CrossmodalTransformer, {"n_pre": 1, "n_post": 1}),
    "mbt": (BottleneckTransformer, {"n_pre": 1, "n_post": 1}),
    "concat": (ConcatFusion, {"n_pre": 1, "n_post": 1}),
}
# Parameters that only ours has, and the normal distribution that they are drawn from.
ONLY_OURS = {"mbt": {"bottleneck": 0.02}}


MODALITIES = {
    "rgb": ModalitySpec(38, 1024), "spec": ModalitySpec(1200, 128), "text": ModalitySpec(38, 1024)
}  # fmt: skip


def _model(name):
    module, attributes = MODELS[name]
    return module(num_classes=10, modalities=MODALITIES, **attributes)


@functools.cache
def _drawn(name):
    """Draws of each parameter of ours."""
    return _draw(_model(name))


def _draw(model):
    """`[SEEDS, ...]` draws of each parameter, by its path."""

    @jax.vmap
    def init(key):
        params = model.init(key, model.example_inputs())["params"]
        return flax.traverse_util.flatten_dict(params, sep="/")

    # Compiled as a whole this takes three times as long: instead, what the parameters depend on
    # is computed step by step, which compiles draws of one shape once for all models.
    keys = jax.random.split(jax.random.key(0, impl="rbg"), SEEDS)
    steps, shapes = jax.make_jaxpr(init, return_shape=True)(keys)
    needed, _ = partial_eval.dce_jaxpr(steps.jaxpr, [True] * len(shapes), instantiate=True)
    draws = jaxpr_as_fun(ClosedJaxpr(needed, steps.consts))(keys)
    return dict(zip(sorted(shapes), jax.device_get(draws), strict=True))


@functools.cache
def _expected(name):
    """For each statistic of theirs, an array of it as large as each parameter of ours, by path.

    They are arrays since the conversion that takes their parameters to ours makes them: it
    joins some, whose statistics differ by chance.
    """
    model = _model(name)
    if name in ONLY_OURS:
        model = model.clone(faithful=True)
    rows = json.loads((reference.FOLDER / "init_stats.json").read_text())[name]
    return {
        statistic: flax.traverse_util.flatten_dict(
            reference.parameters(
                {key: np.full(row["shape"], row[statistic]) for key, row in rows.items()}, model
            ),
            sep="/",
        )
        for statistic in ("mean", "rms", "max_abs")
    }


def _check(values, mean, rms, max_abs):
    """Asserts that values have a distribution with these statistics of as many draws."""
    n = values.size
    computed = np.mean(values), np.sqrt(np.mean(values**2)), np.abs(values).max()
    if rms == abs(mean):  # Constant: 0 or 1.
        assert computed == (mean, rms, max_abs)
        return
    # Standard errors of the difference of two samples; that of a root mean square is less than
    # 1 / sqrt(2 n) of it, which a normal distribution has, and a uniform one 0.63 of that.
    tolerance = DEVIATIONS * rms * math.sqrt(2 / n)
    assert computed[0] == pytest.approx(mean, abs=tolerance)
    assert computed[1] == pytest.approx(rms, abs=tolerance / math.sqrt(2))
    # A largest magnitude that falls short by a share s of the bound has a chance of (1 - s)^n.
    if rms < 0.9:
        assert computed[2] == pytest.approx(max_abs, rel=-math.log(IMPROBABLE) / n)
    else:
        least, most = _largest_of_normal(n)
        assert least < computed[2] < most
        assert least < max_abs < most


def _largest_of_normal(n):
    """Between which the largest magnitude of n standard normal draws lies."""
    # One is above x with a chance p(x): none with (1 - p)^n, about exp(-n p), some with n p.
    chances = -math.log(IMPROBABLE) / n, IMPROBABLE / n
    return [statistics.NormalDist().inv_cdf(1 - chance / 2) for chance in chances]


@pytest.mark.parametrize("name", slow_but(list(MODELS), "sft", "mbt"))
def test_golden_names_and_shapes(name):
    expected = {path: value.shape for path, value in _expected(name)["mean"].items()}
    shapes = {path: values.shape[1:] for path, values in _drawn(name).items()}
    only_ours = {path: shapes.pop(path) for path in ONLY_OURS.get(name, ())}
    assert shapes == expected
    assert only_ours == ({"bottleneck": (1, 4, 40)} if name == "mbt" else {})


@pytest.mark.parametrize("name", slow_but(list(MODELS), "sft", "mbt"))
def test_golden_initial_parameters(name):
    expected = _expected(name)
    for path, mean in expected["mean"].items():
        try:
            _check(
                _drawn(name)[path],
                mean.mean(),
                np.sqrt(np.mean(expected["rms"][path] ** 2)),
                expected["max_abs"][path].max(),
            )
        except AssertionError as error:
            error.add_note(f"of {path}")
            raise


@pytest.mark.parametrize(("name", "path"), [(n, p) for n, own in ONLY_OURS.items() for p in own])
def test_parameters_without_counterpart(name, path):
    values, std = _drawn(name)[path], ONLY_OURS[name][path]
    _check(values / std, 0.0, 1.0, np.abs(values / std).max())


def test_parameters_differ_by_key_and_from_each_other():
    drawn = _drawn("sft")
    kernel = drawn["fused/mlp_in/kernel"]
    assert (kernel[0] != kernel[1]).any()
    assert (kernel[0] != drawn["fused/mlp_out/kernel"][0]).any()


def test_parameters_differ_by_fused_block():
    modalities = {"rgb": ModalitySpec(3, 4)}
    drawn = _draw(SparseFusionTransformer(10, modalities, k=1, n_pre=0, n_post=3))
    blocks = drawn["fused/mlp_in/kernel"].swapaxes(0, 1)
    assert len(blocks) == 2
    assert (blocks[0] != blocks[1]).any()


def test_cls_and_positions_can_be_drawn_smaller():
    modalities = {"rgb": ModalitySpec(38, 1024)}
    drawn = _draw(SparseFusionTransformer(10, modalities, n_pre=0, n_post=0, embedding_std=0.02))
    assert np.std(drawn["tokenizer_rgb/position"]) == pytest.approx(0.02, rel=0.02)
    assert np.std(drawn["tokenizer_rgb/cls"]) == pytest.approx(0.02, rel=0.2)
