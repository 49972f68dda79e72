"""Interruptions of runs: what counts as lost, and how processes and disks are struck."""

import contextlib
import errno
import json
import random
import signal
import subprocess

import pytest

from benchmarks import freshness
from benchmarks.kills import runs
from benchmarks.kills.__main__ import fill, latest_moment, send
from benchmarks.kills.disk import Disk
from benchmarks.tables import reliability


def test_examples_are_lost_by_epoch():
    assert runs.lost([["a", "b"], ["c", "d"], ["b", "a"], ["d", "c"]], 4) == (0, 0)
    assert runs.lost([["a", "b"], ["c", "c"], ["b", "a"], ["d"]], 4) == (1, 1)


def test_batches_are_those_that_were_read_last_by_all_processes(tmp_path):
    run = runs.Run(tmp_path / "run", tmp_path, tmp_path, 1, processes=2)
    lines = ['[1, ["a"]]', '[2, ["x"]]', '[3, ["c', "", '[2, ["b"]]', '[3, ["c"]]']
    (tmp_path / "run" / "batches_0.jsonl").write_text("\n".join(lines))
    other = "".join(json.dumps([step, [f"{step}"]]) + "\n" for step in (1, 2, 3, 4))  # One ahead.
    (run.workdir / "checkpoints" / "latest" / "3").mkdir(parents=True)
    (tmp_path / "run" / "batches_1.jsonl").write_text(other)
    assert run.batches() == [["a", "1"], ["b", "2"], ["c", "3"]]


class _Process:
    """A process that ends with a status, or by a signal alone."""

    def __init__(self, code=None):
        self.code = code

    def send_signal(self, number):
        self.code = -number if self.code is None else self.code

    def wait(self, seconds=None):
        if self.code is None:
            raise subprocess.TimeoutExpired("train.py", seconds)
        return self.code


class _Run:
    def errors(self):
        return "train.py: wrong"


def _started(*processes):
    return runs.Started(_Run(), processes, 0.0)


def test_the_others_end_with_the_process_that_a_signal_ends():
    started = _started(_Process(), _Process())
    send(started, signal.SIGKILL, random.Random(0))
    assert started.wait() == [-signal.SIGKILL] * 2


def test_a_signal_must_be_what_ends_a_process():
    send(_started(_Process(143)), signal.SIGTERM, random.Random(0))
    with pytest.raises(RuntimeError, match=r"ended with 143: train\.py: wrong"):
        send(_started(_Process(143)), signal.SIGKILL, random.Random(0))


class _NoDisk:
    def filled(self):
        return contextlib.nullcontext()


def test_a_run_on_a_full_disk_must_name_it():
    with pytest.raises(RuntimeError, match=r"ended with \[3\]: train\.py: wrong"):
        fill(_started(_Process(3)), _NoDisk())


def test_a_disk_is_full_for_a_while(tmp_path):
    disk = Disk(tmp_path, mounted=True)
    try:
        disk.__enter__()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    try:
        with disk.filled():
            with pytest.raises(OSError, match="No space") as caught:
                (tmp_path / "file").write_bytes(bytes(5000))
            assert caught.value.errno == errno.ENOSPC
        (tmp_path / "file").write_bytes(bytes(5000))
    finally:
        disk.__exit__()


def test_a_run_lasts_for_all_interruptions():
    kills, start, run = 10, 20.0, 320.0
    until = latest_moment(run, start, kills)
    # An even moment trains for (until - start)^2 / (2 until) seconds on average.
    assert kills * (until - start) ** 2 / (2 * until) == pytest.approx(0.5 * (run - start))


def test_the_table_has_a_line_for_each_way(tmp_path, monkeypatch):
    counts = {"kills": 5, "steps": 7035, "parameter_differences": 1, "compared_arrays": 249}
    lost = {"repeated_examples": 2, "missed_examples": 1}
    row = {"killed_while": {"saving": 2, "evaluating": 3}, **counts, **lost}
    monkeypatch.setattr(freshness, "RESULTS", tmp_path)
    (tmp_path / "k.json").write_text(json.dumps({"rows": {"SIGKILL": row}}))
    assert reliability.kills("k.json").splitlines()[2:] == [
        "| SIGKILL | 5 | evaluating 3, saving 2 | 7,035 | 1 / 249 | 3 |"
    ]
