"""Runs that begin with the parameters of another."""

import functools
import json

import chex
import jax
import numpy as np
import pytest
import synthetic

from sft_jax import ModalitySpec, experiment, export, version
from sft_jax.inference import loading
from sft_jax.inference.origin import origin, params_digest
from sft_jax.modules.factory import build_model
from sft_jax.runs import storage
from sft_jax.starting import read_source
from sft_jax.training.transfer import Source, transfer

CLASSES = synthetic.CLASSES


def _model(modalities=synthetic.MODALITIES, classes=3, **changes):
    return build_model(synthetic.config(**changes).model, modalities, classes)


@functools.cache
def _shapes(model):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), model.example_inputs()))["params"]


def _source(model, class_names=CLASSES):
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda a: random.normal(size=a.shape).astype(a.dtype), _shapes(model))
    return Source("runs/other", model, params, class_names)


def _taken(source, model, class_names=CLASSES):
    result = transfer(source, model, _shapes(model), class_names)
    statuses = {}
    for row in result.rows:
        statuses.setdefault(row.status, set()).add(row.path)
    return result, statuses


def test_parameters_are_taken_by_name():
    model = _model()
    source = _source(model)
    result, statuses = _taken(source, model)
    assert set(statuses) == {"loaded"}
    assert result.params["head/classifier/bias"] is source.params["head"]["classifier"]["bias"]
    assert len(result.params) == len(jax.tree.leaves(source.params))


@pytest.mark.parametrize(
    ("names", "note"),
    [(("a", "b"), "the source has 3 outputs, this run 2"), (CLASSES[::-1], "another order")],
)
def test_other_classes_get_a_new_head(names, note):
    result, statuses = _taken(_source(_model()), _model(classes=len(names)), names)
    assert set(statuses) == {"loaded", "new head"}
    assert {path.split("/")[0] for path in statuses["new head"]} == {"head"}
    assert not any(path.startswith("head") for path in result.params)
    assert note in str(result)


def test_modalities_in_common_are_taken():
    smell = ModalitySpec(4, 2)
    model = _model({"sight": synthetic.MODALITIES["sight"], "smell": smell})
    _, statuses = _taken(_source(_model()), model)
    assert set(statuses) == {"loaded", "missing", "unused"}
    assert {path.split("/")[0] for path in statuses["missing"]} == {
        "tokenizer_smell",
        "pooling_smell",
    }
    assert all("sound" in path for path in statuses["unused"])


def test_no_modality_in_common_is_an_error():
    model = _model({name: ModalitySpec(4, 2) for name in ("taste", "smell")})
    with pytest.raises(ValueError, match="are sight, sound, and those of this run smell, taste"):
        _taken(_source(_model()), model)


def test_a_source_that_fits_nowhere_is_an_error():
    with pytest.raises(ValueError, match=r"nothing but the head fits this run:\n.* misshapen"):
        _taken(_source(_model()), _model(model__width=16))


def test_positions_of_another_length_are_interpolated():
    image = {"sight": ModalitySpec((6, 4), 3, patch_size=(2, 2))}
    larger = {"sight": ModalitySpec((12, 4), 3, patch_size=(2, 2))}
    source = _source(_model(image))
    old = source.params["tokenizer_sight"]["position"]
    old[0, 1:] = np.repeat(np.arange(3.0), 2)[:, None]  # Each row of tokens has its number.
    result, statuses = _taken(source, _model(larger))
    assert statuses["resized"] == {"tokenizer_sight/position"}
    new = result.params["tokenizer_sight/position"]
    np.testing.assert_array_equal(new[:, 0], old[:, 0])
    rows = new[0, 1:].reshape(6, 2, -1)
    np.testing.assert_allclose(rows[:, 0, 0], [0, 0.25, 0.75, 1.25, 1.75, 2], rtol=1e-6)
    np.testing.assert_array_equal(rows, np.broadcast_to(rows[:, :1, :1], rows.shape))
    assert "from [3, 2] tokens to [6, 2]" in str(result)
    # A sequence is no image.
    _, statuses = _taken(source, _model({"sight": ModalitySpec(30, 3, patch_size=2)}))
    assert "tokenizer_sight/position" in statuses["misshapen"]


def test_another_patch_is_misshapen():
    other = {**synthetic.MODALITIES, "sight": ModalitySpec(12, 3, patch_size=3)}
    _, statuses = _taken(_source(_model()), _model(other))
    assert statuses["misshapen"] == {"tokenizer_sight/projection/kernel"}


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Run with a running mean, on data of the same modalities."""
    workdir = tmp_path_factory.mktemp("other") / "run"
    config = synthetic.config(train__ema_decay=0.9)
    return workdir, synthetic.save_run(workdir, synthetic.dataset().info, config)


@pytest.mark.process
def test_a_run_begins_with_another_and_reads_it_once(other, tmp_path):
    path, state = other
    data = synthetic.dataset()
    # A rate of almost 0 keeps the parameters.
    config = synthetic.config(train__init_from=str(path), optim__lr=1e-30, train__ema_decay=0.5)
    result = experiment.train(config, tmp_path / "run", data)
    jax.tree.map(np.testing.assert_array_equal, result.state.params, state.ema_params)
    chex.assert_trees_all_close(result.state.ema_params, state.ema_params, rtol=1e-6)
    record = json.loads((tmp_path / "run" / "init_from.json").read_text())
    assert record["source"]["path"] == str(path)
    assert record["source"]["parameters"] == "ema"
    assert record["source"]["step"] == 5
    assert record["source"]["code"]["digest"].startswith("sha256:")
    assert record["source"]["digest"] == params_digest(state.ema_params)
    assert {row["status"] for row in record["parameters"]} == {"loaded"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load", None)
        again = experiment.train(config, tmp_path / "run", data)
    assert again.state.step == result.state.step


@pytest.mark.process
def test_an_exported_folder_is_a_source(other, tmp_path):
    folder, params = tmp_path / "folder", other[1].ema_params
    export.write(read_source(str(other[0])), folder, "safetensors")
    record = origin(str(folder), read_source(str(folder)))
    assert (record["path"], record["parameters"], record["step"]) == (str(folder), "exported", None)
    assert record["digest"] == params_digest(params)
    assert record["code"] == version.code()
    with pytest.raises(ValueError, match=r"train\.init_from: .* is not a run directory"):
        read_source(str(tmp_path))


def test_a_source_is_checked_before_the_data(tmp_path):
    config = synthetic.config(train__init_from=str(tmp_path / "typo"))
    with pytest.raises(ValueError, match=r"train\.init_from='.*typo' must be a run directory or"):
        experiment.train(config, tmp_path / "run")
    assert not storage.as_path(tmp_path / "run" / "dataset.json").exists()
