import json

import numpy as np
import pytest
import synthetic

from sft_jax import version
from sft_jax.data.standardisation import same_statistics
from sft_jax.runs import directory
from sft_jax.runs.directory import RunDirectoryError
from sft_jax.training.reporting import Reporter


def test_a_run_directory_tells_how_it_was_made(tmp_path):
    for _ in range(2):
        directory.prepare(tmp_path, synthetic.config())
    assert directory.read_config(tmp_path) == synthetic.config()
    starts = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert len(starts) == 2
    assert starts[0]["versions"]["jax"]
    assert starts[0]["code"] == version.code()
    assert starts[0]["command"]


@pytest.fixture
def begun(tmp_path):
    """A run that has a checkpoint to lose."""
    directory.prepare(tmp_path, synthetic.config())
    (tmp_path / "checkpoints" / "latest" / "7").mkdir(parents=True)
    return tmp_path


def test_another_config_is_refused_with_the_differences(begun):
    other = synthetic.config(optim__lr=0.5, model__k=3)
    with pytest.raises(RunDirectoryError) as error:
        directory.prepare(begun, other)
    assert str(error.value).splitlines()[1:] == ["  model.k: 2 -> 3", "  optim.lr: 0.01 -> 0.5"]
    assert directory.read_config(begun) == synthetic.config()


def test_what_no_result_depends_on_may_change_and_is_told(begun):
    other = synthetic.config(train__keep_latest=7, data__data_dir="/data", mesh__fsdp=2)
    directory.prepare(begun, other)
    assert directory.read_config(begun) == other
    starts = [json.loads(line) for line in (begun / "starts.jsonl").read_text().splitlines()]
    assert [start["changed"] for start in starts] == [
        [],
        ["data.data_dir: '' -> '/data'", "mesh.fsdp: 1 -> 2", "train.keep_latest: 2 -> 7"],
    ]
    with pytest.raises(RunDirectoryError) as error:
        directory.prepare(begun, synthetic.config(train__label_smoothing=0.1))
    changes = ["  train.label_smoothing: 0.0 -> 0.1"]
    assert str(error.value).splitlines()[1:] == changes
    assert directory.read_config(begun) == other


def test_a_run_without_a_checkpoint_may_be_changed(tmp_path):
    # A first start that failed, on a k too large, say, must not lock its directory.
    directory.prepare(tmp_path, synthetic.config())
    directory.prepare(tmp_path, synthetic.config(model__k=3))
    assert directory.read_config(tmp_path) == synthetic.config(model__k=3)


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match=r"can't write to workdir .*file/run"):
        directory.prepare(tmp_path / "file" / "run", synthetic.config())


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"not a run directory: it has no config\.json"):
        directory.read_config(tmp_path)


def test_a_damaged_config_is_named(begun):
    path = begun / "config.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(RunDirectoryError, match=r"config\.json is damaged"):
        directory.prepare(begun, synthetic.config())


def test_metrics_of_steps_to_be_taken_again_are_dropped(tmp_path):
    first = Reporter(tmp_path, 0, 10)
    for step in range(1, 6):
        first.scalars(step, {"loss": step})
    first.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 6, "lo')  # Killed while writing.
    Reporter(tmp_path, 3, 10).close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_an_evaluation_to_be_done_again_is_dropped(tmp_path):
    first = Reporter(tmp_path, 0, 10)
    for step in (1, 2):
        first.scalars(step, {"train/loss": step})
        first.scalars(step, {"valid/loss": 2 * step})
    first.close()
    Reporter(tmp_path, 2, 10, evaluated=False).close()
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert written == [
        {"step": 1, "train/loss": 1},
        {"step": 1, "valid/loss": 2},
        {"step": 2, "train/loss": 2},
    ]


def test_a_run_whose_statistics_were_saved_as_float32_goes_on(tmp_path):
    info = synthetic.dataset().info.to_json()
    (tmp_path / "checkpoints/latest/10").mkdir(parents=True)
    rounded = json.loads(json.dumps(info), parse_float=lambda text: float(np.float32(text)))
    assert rounded["statistics"] != info["statistics"]
    directory.write_json(tmp_path / "dataset.json", rounded)
    directory.keep_dataset(tmp_path, info, same_statistics)
    assert json.loads((tmp_path / "dataset.json").read_text()) == info
    for name in ("mean", "std"):
        other = json.loads(json.dumps(info))
        other["statistics"]["sight"][name][0] *= 1.001
        with pytest.raises(directory.RunDirectoryError, match="other data: statistics differ"):
            directory.keep_dataset(tmp_path, other, same_statistics)


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    info = {"num_examples": {"train": 3}, "statistics": {"a": 1.0}, "metrics": []}
    directory.keep_dataset(tmp_path, info)
    other = {**info, "statistics": {"a": 2.0}}
    directory.keep_dataset(tmp_path, other)  # Nothing has been trained yet.
    (tmp_path / "checkpoints/latest/10").mkdir(parents=True)
    directory.keep_dataset(tmp_path, {**other, "metrics": ["ranking"]})
    with pytest.raises(directory.RunDirectoryError, match="other data: statistics differ"):
        directory.keep_dataset(tmp_path, info)
    assert json.loads((tmp_path / "dataset.json").read_text())["statistics"] == {"a": 2.0}


def test_a_half_written_description_of_the_data_is_named(begun):
    path = begun / "dataset.json"
    directory.write_json(path, {"class_names": ["a", "b"]})
    path.write_text(path.read_text()[:12])
    with pytest.raises(RunDirectoryError, match=r"dataset\.json is damaged"):
        directory.keep_dataset(begun, {"class_names": ["a", "b"]})
