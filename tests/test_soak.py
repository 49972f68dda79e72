"""Growth over hours, with its interval, and samples of a process."""

import os

import numpy as np
import pytest

from benchmarks import soak


def test_growth_is_the_slope_over_hours():
    hours = np.linspace(1, 2, 240)
    noise = np.random.default_rng(0).normal(size=240)
    flat, growing = (soak.growth(hours, 300 + slope * hours + noise) for slope in (0, 40))
    assert flat["interval"][0] < 0 < flat["interval"][1]
    assert growing["per_hour"] == pytest.approx(40, abs=1)
    assert growing["interval"][0] < 40 < growing["interval"][1]


def test_a_sample_has_the_memory_of_the_process(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(bytes(2**20))
    before = soak.sample(os.getpid(), tmp_path)
    held = np.ones(2**23)  # 64 MiB
    with open(tmp_path / "folder" / "file"):
        after = soak.sample(os.getpid(), tmp_path)
    assert after["anonymous_mib"] - before["anonymous_mib"] == pytest.approx(64, abs=16)
    assert after["open_files"] == before["open_files"] + 1
    assert before["threads"] >= 1
    assert before["disk_mib"] == pytest.approx(1, abs=0.1)
    assert held.all()
