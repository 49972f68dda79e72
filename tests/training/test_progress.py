"""Means, seconds and the time that remains, by a clock that the test moves."""

import types

import pytest

from sft_jax.training import progress


@pytest.fixture
def clock(monkeypatch):
    now = types.SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now.seconds)
    return now


def _step(loss, score):
    return types.SimpleNamespace(loss=loss, score=score)


def test_compilation_is_told_and_does_not_count(clock):
    lines, measured = [], progress.Progress(first_step=20, total_steps=60)

    def slow():
        clock.seconds += 1
        yield "batch"

    assert measured.wait_for(slow()) == "batch"
    with measured.compiling(True, lines.append):
        clock.seconds += 500
    with measured.compiling(False, lines.append):
        clock.seconds += 9
    assert lines == ["compiling...", "compiled in 500.0 s"]
    assert measured.share() == pytest.approx(0.1)
    # Ten steps in ten seconds; thirty are left.
    assert measured.times(30) == "10.0 s  ETA 0:00:30"
    measured.restart()
    clock.seconds += 10
    assert measured.times(40) == "10.0 s  ETA 0:00:20"
    assert measured.times(60) == "10.0 s"


def test_means_are_of_the_steps_since_the_last_evaluation(clock):
    measured = progress.Progress(first_step=0, total_steps=4)
    assert measured.means() is None
    measured.add(_step(3.0, 0.0))
    measured.add(_step(1.0, 0.5))
    assert measured.means() == (2.0, 0.25)
    measured.restart()
    measured.add(_step(8.0, 1.0))
    assert measured.means() == (8.0, 1.0)
    assert measured.times(0) == "0.0 s"
