"""Each dataset from its raw files to the JSON of an evaluation, with models as small as can be."""

import importlib
import json

import av_mnist_files
import jax
import npz_examples
import numpy as np
import physionet_archives
import pytest
import sentiment_pickles
import synthetic
import vggsound_hdf5

from sft_jax import config_io, experiment
from sft_jax.evaluation.run import evaluate_run

SMALL = {
    "model": {"width": 8, "num_heads": 1, "n_pre": 0, "n_post": 1, "dropout": 0.0},
    "train": {"batch_size": 4, "epochs": 2},
}


@pytest.fixture(autouse=True)
def quick_to_compile(monkeypatch):
    """On one device: sharding has tests of its own; and by keys of a kind that compiles quickly."""
    synthetic.on_one_device(monkeypatch)
    with jax.default_prng_impl("rbg"):
        yield


def _train_and_evaluate(folder, name, arg=None, data=None, **changes):
    """Trains by a config file, made small, and evaluates on the test split."""
    values = importlib.import_module(f"configs.{name}").get_config(arg).to_dict()
    for section, fields in (SMALL | changes).items():
        values[section] |= SMALL.get(section, {}) | fields
    values["data"] |= {"data_dir": str(folder / "data"), "manual_dir": str(folder / "raw")}
    values["data"] |= data or {}
    config = config_io.from_mapping(values)
    workdir = folder / "run"
    result = experiment.train(config, workdir)
    assert result.train_compiles == 1
    evaluated, predictions = evaluate_run(workdir, "test", "best")
    assert evaluated == json.loads((workdir / "eval" / "test.json").read_text())
    info = json.loads((workdir / "dataset.json").read_text())
    card = json.loads((workdir / "data_card.json").read_text())
    count = info["num_examples"]["test"]
    assert evaluated["n_examples"] == len(predictions.ids) == count
    assert card["splits"]["test"]["n_examples"] == count
    assert np.isfinite(predictions.logits).all()
    assert np.isfinite(evaluated["loss"])
    return evaluated, card


def _write_sentiments(folder, **counts):
    (folder / "raw").mkdir()
    counts = {"train": 8, "valid": 3, "test": 5} | counts
    path = folder / "raw" / "mosei_senti_data_noalign.pkl"
    sentiment_pickles.write(path, "mosei", "mult_noalign", counts)


@pytest.mark.slow
def test_sentiments(tmp_path):
    _write_sentiments(tmp_path)
    # Long patches: attention to all 1,052 steps would be most of the test.
    data = {"patch_size": {"vision": 50, "audio": 50, "text": 10}}
    result, card = _train_and_evaluate(tmp_path, "mosei", "size=laptop", data)
    assert np.sum(result["confusion_matrix"]) == 5
    assert {"acc2_non0", "f1_has0", "acc7", "mae"} <= set(result["sentiment"])
    assert "ranking" not in result
    assert card["dataset"] == "cmu_mosei"
    assert card["splits"]["train"]["not_finite"]["audio"] == {"-inf": 8}


@pytest.mark.slow
def test_clips(tmp_path):
    vggsound_hdf5.write(tmp_path / "raw", classes=2, train=6, test=3)
    data = {"patch_size": {"spect": 50}}
    result, card = _train_and_evaluate(tmp_path, "vggsound", "size=laptop,mixup=none", data)
    assert result["n_examples"] == 3
    assert {"mAP", "mAUC", "d_prime"} <= set(result["ranking"])
    assert card["class_names"] == [*result["per_class"]]


@pytest.mark.slow
def test_pairs_of_digits(tmp_path):
    options = {"speakers": ("ann",), "count": 11}
    av_mnist_files.write(tmp_path / "raw", train=24, test=5, **options)
    data = {"train_pairs": 10, "valid_pairs": 2, "test_pairs": 5}
    data["patch_size"] = {"image": (14, 14), "sound": (16, 32)}
    result, _ = _train_and_evaluate(tmp_path, "av_mnist", None, data)
    assert result["n_examples"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("target", ["death", "stay"])
def test_stays_in_intensive_care(tmp_path, target):
    physionet_archives.write(tmp_path / "raw", stays=15)
    result, card = _train_and_evaluate(tmp_path, "physionet2012", f"target={target},bin_hours=0")
    assert result["n_examples"] == (30 if target == "death" else 28)
    assert {"roc_auc", "average_precision"} <= set(result) or target == "stay"
    assert card["kinds"]["statistics"] == "vector"


@pytest.mark.slow
def test_a_folder_of_files(tmp_path):
    npz_examples.write(tmp_path / "raw", train=12, valid=3, test=7)
    data = {"patch_size": {"image": 14}}
    result, card = _train_and_evaluate(tmp_path, "npz_folder", None, data)
    assert result["n_examples"] == 7
    assert card["splits"]["train"]["lengths"]["touch"] == {"6": 9, "0": 3}
