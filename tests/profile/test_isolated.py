"""Functions in processes of their own."""

import os

import pytest

from sft_jax.profile.isolated import IsolatedFunction, run_isolated

pytestmark = pytest.mark.process

MODULE = """
import os, sys
print("printed on import")

def describe(request):
    print("printed in a call")
    names = {name.split(".")[0] for name in sys.modules}
    return {"request": request, "pid": os.getpid(), "value": os.environ.get("OWN_VALUE"),
            "imported": sorted(names & {"jax", "sft_jax"})}

class Counter:
    def __init__(self):
        self.total = 0

    def __call__(self, request):
        self.total += request
        return self.total

def fail(request):
    raise ValueError(request)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "isolated_functions.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path / "isolated_functions.py"


def test_a_call_has_a_process_and_environment_of_its_own(module):
    request = {"text": "ä\n", "numbers": [1, 2.5, None]}
    answer = run_isolated("isolated_functions:describe", request, environment={"OWN_VALUE": "7"})
    assert answer["request"] == request
    assert answer["value"] == "7"
    assert answer["pid"] != os.getpid()
    # Memory and threads of the process are those of the function's own module.
    assert answer["imported"] == []


def test_an_instance_of_a_class_keeps_its_state(module):
    with IsolatedFunction(f"{module}:Counter") as counter:
        assert [counter(number) for number in (1, 2, 3)] == [1, 3, 6]
        assert counter.pid != os.getpid()


def test_an_error_ends_the_process(module, capfd):
    with pytest.raises(ChildProcessError, match=r"isolated_functions:fail ended with status 1$"):
        run_isolated("isolated_functions:fail", "reason")
    assert "ValueError: reason" in capfd.readouterr().err


def test_a_killed_process_hints_at_memory(module):
    with IsolatedFunction("isolated_functions:describe") as describe:
        os.kill(describe.pid, 9)
        with pytest.raises(ChildProcessError, match=r"status -9, as a process does .* memory"):
            describe(None)
