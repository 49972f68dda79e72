"""Training never goes on from a damaged checkpoint."""

import json
import pathlib
import re
import shutil
import threading

import chex
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import synthetic

from sft_jax.runs import integrity
from sft_jax.runs.checkpoint import (
    Checkpoints,
    DamagedCheckpointError,
    NoCheckpointError,
    SaveError,
)
from sft_jax.runs.directory import RunDirectoryError
from sft_jax.training.state import TrainState

# Orbax writes them last; nothing is read from them.
COMMIT_FILES = {"_CHECKPOINT_METADATA", "commit_success.txt"}


def state(step):
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params={"a": jnp.arange(300.0) + step, "b": jnp.full((2, 3), step)},
        opt_state=(),
        plateau=(),
        ema_params=None,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two latest checkpoints; the older one is the best."""
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(workdir, keep_latest=2)
    for step in (1, 2):
        checkpoints.save("latest", state(step), {"step": step})
        if step == 1:
            checkpoints.save("best", state(step), {"step": step})
    checkpoints.close()
    return workdir


@pytest.fixture
def run(saved, tmp_path):
    shutil.copytree(saved / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


def files(folder):
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).as_posix() not in COMMIT_FILES
    )


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def restored_step(workdir, which="latest"):
    restored, description = Checkpoints(workdir, read_only=True).restore(which, state(0))
    np.testing.assert_array_equal(restored.params["a"], state(restored.step).params["a"])
    assert description == {"step": restored.step}
    return int(restored.step)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "bytes, had|can't be read"),
        (flip, "other bytes|can't be read|missing|bytes, had"),
        (pathlib.Path.unlink, "is missing"),
    ],
)
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(run, caplog, damage, message):
    latest = run / "checkpoints" / "latest" / "2"
    names = [path.relative_to(latest).as_posix() for path in files(latest)]
    assert {"sha256.json", "description/metadata", "state/manifest.ocdbt"} <= {*names}
    assert any(name.startswith("state/ocdbt.process_0/d/") for name in names)
    for path in files(latest):
        caplog.clear()
        before = path.read_bytes()
        damage(path)
        description = Checkpoints(run, read_only=True).description("latest")
        path.write_bytes(before)
        assert description == {"step": 1}
        (record,) = caplog.get_records("call")
        assert record.name.startswith("sft_jax.")
        assert f"{latest} is damaged: " in record.message
        if (damage, path.name) != (flip, "sha256.json"):
            assert path.relative_to(latest).as_posix() in record.message
        assert "taking latest/1 in its place" in record.message
        assert re.search(message, record.message)
    assert restored_step(run) == 2


def test_a_part_of_the_state_can_be_restored(saved):
    checkpoints = Checkpoints(saved, read_only=True)
    whole = state(1)
    part = checkpoints.restore_part("best", {"step": whole.step, "params": whole.params})
    chex.assert_trees_all_equal(part, {"step": whole.step, "params": whole.params})
    checkpoints.close()


def test_arrays_of_another_model_are_refused(saved):
    checkpoints = Checkpoints(saved, read_only=True)
    kept = state(1).params
    for params, message in (
        (kept | {"b": jnp.zeros((3, 2))}, r"params\.b is .*, expected \[3, 2\]$"),
        (kept | {"c": jnp.zeros(3)}, r"params\.c is missing, expected \[3\]$"),
        ({"b": kept["b"]}, r"params\.\w+ is \[.*\], expected nothing"),
    ):
        with pytest.raises(
            RunDirectoryError, match=f"does not fit the config of the run: {message}"
        ):
            checkpoints.restore_part("best", {"params": params})
    checkpoints.close()


def test_commit_files_are_not_needed(run):
    for name in COMMIT_FILES:
        (run / "checkpoints" / "latest" / "2" / name).unlink()
    assert restored_step(run) == 2


def test_a_folder_without_files_is_damaged(run, caplog):
    shutil.rmtree(run / "checkpoints" / "latest" / "2" / "state")
    assert restored_step(run) == 1
    assert "is missing, and " in caplog.text


def test_the_best_replaces_the_latest_of_its_step(run):
    for step in "12":
        truncate(run / "checkpoints" / "latest" / step / "sha256.json")
    assert restored_step(run) == restored_step(run, "1") == 1
    with pytest.raises(DamagedCheckpointError, match=r"'2' .* is whole:\n  latest/2: sha256.json"):
        restored_step(run, "2")


def test_a_damaged_best_is_replaced_by_the_same_step_alone(run):
    truncate(run / "checkpoints" / "best" / "1" / "description" / "metadata")
    assert restored_step(run, "best") == 1
    shutil.rmtree(run / "checkpoints" / "latest" / "1")
    with pytest.raises(DamagedCheckpointError, match=r"best/1: .*metadata has 10 bytes, had 11"):
        restored_step(run, "best")


def test_if_none_is_whole_all_are_named(run):
    for path in run.glob("checkpoints/*/*/description/metadata"):
        flip(path)
    checkpoints = Checkpoints(run)
    with pytest.raises(DamagedCheckpointError) as error:
        checkpoints.resume(state(0))
    lines = str(error.value).splitlines()[1:]
    assert [line.split(": ")[0].strip() for line in lines] == ["latest/2", "latest/1", "best/1"]
    assert all("description/metadata has other bytes" in line for line in lines)
    assert not (run / "checkpoints" / "damaged").exists()


def test_a_damaged_step_is_moved_out_of_the_way(run):
    flip(run / "checkpoints" / "latest" / "2" / "state" / "_METADATA")
    flip(run / "checkpoints" / "best" / "1" / "state" / "_METADATA")
    checkpoints = Checkpoints(run, keep_latest=2)
    restored, _ = checkpoints.resume(state(0))
    assert restored.step == 1
    assert (checkpoints.steps("latest"), checkpoints.steps("best")) == ([1], [])
    moved = sorted(path.name for path in (run / "checkpoints" / "damaged").iterdir())
    assert moved == ["best-1", "latest-2"]
    checkpoints.save("latest", state(2), {"step": 2})
    checkpoints.close()
    assert restored_step(run) == 2


def test_checkpoints_without_sha256_get_it_on_resuming(run, caplog):
    for path in run.glob("checkpoints/*/*/sha256.json"):
        path.unlink()
    assert restored_step(run) == 2
    assert "has no sha256.json to check it by" in caplog.text
    assert not list(run.glob("checkpoints/*/*/sha256.json"))
    assert Checkpoints(run).resume(state(0))[1] == {"step": 2}
    flip(run / "checkpoints" / "latest" / "2" / "state" / "_METADATA")
    assert restored_step(run) == 1


@pytest.mark.parametrize("when", ["found", "checked"])
def test_checkpoints_that_training_removes_are_not_evaluated(run, monkeypatch, caplog, when):
    (run / "checkpoints/latest/2").rename(run / "later")
    checkpoints = Checkpoints(run, read_only=True)
    problems = integrity.problems

    def checking(folder):
        if when == "checked":
            result = problems(folder)
        # Now the next one is saved, and the one before removed.
        if not (run / "checkpoints/latest/2").exists():
            (run / "later").rename(run / "checkpoints/latest/2")
            shutil.rmtree(run / "checkpoints/latest/1")
            shutil.rmtree(run / "checkpoints/best/1")
        return result if when == "checked" else problems(folder)

    monkeypatch.setattr(integrity, "problems", checking)
    restored, description = checkpoints.restore("latest", state(0))
    assert (int(restored.step), description) == (2, {"step": 2})
    assert not caplog.records


def test_there_may_be_no_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert checkpoints.resume(state(0)) is None
    with pytest.raises(NoCheckpointError, match=r"latest \[\] and best \[\]"):
        checkpoints.restore("latest", state(0))
    assert not list(tmp_path.iterdir())


def test_a_failed_save_is_raised_at_the_next_step(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError("the disk is full")

    seen = []

    def look(number, batch, ids):
        seen.append(number)
        if number == 8:  # The checkpoint of step 7 is being saved.
            for thread in threading.enumerate():
                if thread.name == "save_finalize":
                    thread.join()
        return batch, ids

    monkeypatch.setattr(integrity, "sign", fail)
    as_taken = synthetic.config(system__batches_ahead=0)
    with pytest.raises(SaveError, match=r"(latest|best)/7 was not saved: the disk is full"):
        synthetic.run(tmp_path, as_taken, wrap=lambda batches: synthetic.Batches(batches, look))
    assert seen == list(range(1, 9))
    assert Checkpoints(tmp_path).steps("latest") == []


def test_a_save_is_finished_after_an_interrupted_wait(tmp_path, monkeypatch):
    started, go = threading.Event(), threading.Event()
    sign = Checkpoints._sign_saved

    def slowly(self, kind):
        started.set()
        assert go.wait(timeout=60)
        sign(self, kind)

    monkeypatch.setattr(Checkpoints, "_sign_saved", slowly)
    checkpoints = Checkpoints(tmp_path, keep_latest=2)
    checkpoints.save("latest", state(1), {"step": 1})
    assert started.wait(timeout=60)

    def interrupted(manager):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "wait_until_finished", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.wait()
    go.set()
    checkpoints.close()
    restored, description = Checkpoints(tmp_path, read_only=True).restore("latest", state(0))
    assert description["step"] == 1
    chex.assert_trees_all_equal(restored, state(1))


def test_training_repeats_the_steps_of_a_damaged_checkpoint(tmp_path):
    experiment = synthetic.config()
    result, _ = synthetic.run(tmp_path, experiment)

    def metrics():
        lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
        return [{**line, "train/input_wait": None} for line in lines]

    before = metrics()
    for kind in ("latest", "best"):
        flip(tmp_path / "checkpoints" / kind / "13" / "description" / "metadata")
    again, _ = synthetic.run(tmp_path, experiment)
    chex.assert_trees_all_equal(again.state, result.state)
    assert metrics() == before
    assert (again.best_step, again.best_value) == (result.best_step, result.best_value)
    moved = sorted(path.name for path in (tmp_path / "checkpoints" / "damaged").iterdir())
    assert moved == ["best-13", "latest-13"]
    assert Checkpoints(tmp_path).description("latest")["metrics"]["loss"] == result.best_value
