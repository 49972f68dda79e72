import dataclasses
import json

import numpy as np
import pytest
import synthetic

from sft_jax import version
from sft_jax.data.standardisation import same_statistics
from sft_jax.runs.directory import (
    RunDirectory,
    RunDirectoryError,
    SeedsDirectory,
    check_settings,
)
from sft_jax.runs.storage import write_json
from sft_jax.training.reporting import Reporter


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_starts_are_recorded(tmp_path):
    for _ in range(2):
        run = RunDirectory.open(tmp_path, synthetic.config())
    assert run.read_config() == synthetic.config()
    starts = _lines(tmp_path / "starts.jsonl")
    assert len(starts) == 2
    assert starts[0]["versions"]["jax"]
    assert starts[0]["code"] == version.code()
    assert starts[0]["command"]


@pytest.fixture
def begun(tmp_path):
    """A run that has a checkpoint to lose."""
    run = RunDirectory.open(tmp_path, synthetic.config())
    (tmp_path / "checkpoints" / "latest" / "7").mkdir(parents=True)
    return run


def test_another_config_is_refused_with_the_differences(begun):
    other = synthetic.config(optim__lr=0.5, model__k=3)
    with pytest.raises(RunDirectoryError) as error:
        RunDirectory.open(begun.path, other)
    assert str(error.value).splitlines()[1:] == ["  model.k: 2 -> 3", "  optim.lr: 0.01 -> 0.5"]
    assert begun.read_config() == synthetic.config()


def test_fields_without_effect_on_results_may_change(begun):
    other = synthetic.config(train__keep_latest=7, data__data_dir="/data", mesh__fsdp=2)
    RunDirectory.open(begun.path, other)
    assert begun.read_config() == other
    assert [start["changed"] for start in _lines(begun.starts_file)] == [
        [],
        ["data.data_dir: '' -> '/data'", "mesh.fsdp: 1 -> 2", "train.keep_latest: 2 -> 7"],
    ]
    with pytest.raises(RunDirectoryError) as error:
        RunDirectory.open(begun.path, synthetic.config(train__label_smoothing=0.1))
    changes = ["  train.label_smoothing: 0.0 -> 0.1"]
    assert str(error.value).splitlines()[1:] == changes
    assert begun.read_config() == other


def test_a_run_without_a_checkpoint_may_be_changed(tmp_path):
    # A first start that failed, on a k too large, say, must not lock its directory.
    RunDirectory.open(tmp_path, synthetic.config())
    run = RunDirectory.open(tmp_path, synthetic.config(model__k=3))
    assert run.read_config() == synthetic.config(model__k=3)


def test_a_workdir_without_write_access_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match=r"can't write to workdir .*file/run"):
        RunDirectory.open(tmp_path / "file" / "run", synthetic.config())


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"not a run directory: it has no config\.json"):
        RunDirectory(tmp_path).read_config()


def test_a_damaged_config_is_named(begun):
    whole = begun.config_file.read_bytes()
    for damaged in (whole[:-20], b"\xff" + whole, b"null"):
        begun.config_file.write_bytes(damaged)
        with pytest.raises(RunDirectoryError, match=r"config\.json is damaged"):
            RunDirectory.open(begun.path, synthetic.config())


def test_other_paths_are_named(begun, tmp_path):
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "config.json").write_text('{"format_version": 1}')
    for path, reason in (
        (begun.config_file, "it has no"),
        (tmp_path / "exported", "export.py wrote"),
    ):
        with pytest.raises(RunDirectoryError, match=f"is not a run directory: {reason}"):
            RunDirectory(path).read_config()


def test_reports_of_repeated_steps_are_dropped(tmp_path):
    run = RunDirectory(tmp_path)
    first = Reporter(run, 0, 10)
    for step in range(1, 6):
        first.scalars(step, {"loss": step})
    first.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 6, "lo')  # Killed while writing.
    Reporter(run, 3, 10).close()
    assert [line["step"] for line in _lines(path)] == [1, 2, 3]


def test_reports_of_a_repeated_evaluation_are_dropped(tmp_path):
    run = RunDirectory(tmp_path)
    first = Reporter(run, 0, 10)
    for step in (1, 2):
        first.scalars(step, {"train/loss": step})
        first.scalars(step, {"valid/loss": 2 * step})
    first.close()
    Reporter(run, 2, 10, evaluated=False).close()
    assert _lines(run.metrics_file) == [
        {"step": 1, "train/loss": 1},
        {"step": 1, "valid/loss": 2},
        {"step": 2, "train/loss": 2},
    ]


def test_a_run_whose_statistics_were_saved_as_float32_goes_on(begun):
    info = synthetic.dataset().info.to_json()
    rounded = json.loads(json.dumps(info), parse_float=lambda text: float(np.float32(text)))
    assert rounded["statistics"] != info["statistics"]
    write_json(begun.dataset_file, rounded)
    begun.record_dataset(info, None, same_statistics)
    assert json.loads((begun.path / "dataset.json").read_text()) == info
    for name in ("mean", "std"):
        other = json.loads(json.dumps(info))
        other["statistics"]["sight"][name][0] *= 1.001
        with pytest.raises(RunDirectoryError, match="other data: statistics differ"):
            begun.record_dataset(other, None, same_statistics)


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    run = RunDirectory(tmp_path)
    info = {"num_examples": {"train": 3}, "statistics": {"a": 1.0}, "metrics": []}
    run.record_dataset(info)
    other = {**info, "statistics": {"a": 2.0}}
    run.record_dataset(other, {"a card": 1})  # Nothing has been trained yet.
    assert json.loads((tmp_path / "data_card.json").read_text()) == {"a card": 1}
    (tmp_path / "checkpoints/latest/10").mkdir(parents=True)
    run.record_dataset({**other, "metrics": ["ranking"]})
    with pytest.raises(RunDirectoryError, match="other data: statistics differ"):
        run.record_dataset(info)
    assert json.loads((tmp_path / "dataset.json").read_text())["statistics"] == {"a": 2.0}


def test_a_half_written_description_of_the_data_is_named(begun):
    write_json(begun.dataset_file, {"class_names": ["a", "b"]})
    begun.dataset_file.write_text(begun.dataset_file.read_text()[:12])
    with pytest.raises(RunDirectoryError, match=r"dataset\.json is damaged"):
        begun.record_dataset({"class_names": ["a", "b"]})


def test_a_folder_of_seeds_holds_one_run_for_each(tmp_path):
    config = dataclasses.replace(synthetic.config(), seeds=(10, 2))
    folder = SeedsDirectory.open(tmp_path, config)
    assert folder.read_config() == config
    (tmp_path / "seed_x").mkdir()
    (tmp_path / "seed_3").mkdir()  # Of a start that failed.
    runs = SeedsDirectory.existing(tmp_path).runs
    assert {seed: run.path.name for seed, run in runs.items()} == {2: "seed_2", 10: "seed_10"}
    assert [*runs] == [2, 10]
    assert runs[10].read_config() == synthetic.config(seed=10)
    folder.record_dataset({"statistics": 1}, {"a card": 1})
    assert all(run.dataset_file.exists() and run.card_file.exists() for run in runs.values())
    with pytest.raises(RunDirectoryError, match=r"seed_2 was made by another[\s\S]*k: 2 -> 3"):
        check_settings(synthetic.config(model__k=3), runs.values())
