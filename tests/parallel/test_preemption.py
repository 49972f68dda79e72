"""The first SIGTERM is noted, the second ends the process."""

import os
import pickle
import signal
import subprocess
import sys
import threading

import pytest

from sft_jax.parallel import preemption


@pytest.fixture(autouse=True)
def _handler():
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_second_signal_ends_the_process():
    with preemption.watch() as notice:
        assert not notice.reached()
        preemption.interruption_point()
        os.kill(os.getpid(), signal.SIGTERM)
        assert notice.reached()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        with pytest.raises(preemption.GivenUpError):
            preemption.interruption_point()
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    preemption.interruption_point()


def test_sync_points_are_counted_on_from_run_to_run(monkeypatch):
    calls = []
    monkeypatch.setattr(preemption.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        preemption.multihost_utils, "reached_preemption_sync_point", lambda n: calls.append(n)
    )
    for _ in range(2):
        with preemption.watch() as notice:
            for _ in range(3):
                notice.reached()
    assert calls == [*range(calls[0], calls[0] + 6)]


def test_another_thread_leaves_signals_alone():
    results = []

    def run():
        with preemption.watch() as notice:
            results.extend([signal.getsignal(signal.SIGTERM), notice.reached()])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert results == [signal.default_int_handler, False]


@pytest.mark.process
def test_a_loop_over_models_ends_with_the_status_of_the_signal():
    program = """
from sft_jax.parallel.preemption import PreemptedError
for model in ("first", "second"):
    try:
        print(model)
        raise PreemptedError("step 3 is saved")
    except Exception:
        pass
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (143, "first\n")


def test_the_error_says_how_to_go_on():
    with pytest.raises(preemption.PreemptedError, match=r"^step 3 is saved$") as caught:
        raise preemption.PreemptedError("step 3 is saved")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.code) == ("step 3 is saved", 143)
