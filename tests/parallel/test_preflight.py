"""Problems of a machine or a run directory are found before training."""

import collections
import json
import logging
import pathlib
import shutil
import threading

import jax
import pytest
import synthetic
from absl import flags
from rich.console import Console

from sft_jax import config_io, doctor
from sft_jax.parallel import multihost, preflight
from sft_jax.parallel.preflight import Finding


def test_a_machine_that_is_fit_has_no_problems(tmp_path):
    findings, together = preflight.thorough(tmp_path / "run", synthetic.config())
    assert together
    names = ["devices", "collective", "hosts", "versions", "workdir", "free space"]
    assert [finding.check for finding in findings] == names
    assert [finding.problem for finding in findings if finding.stops] == [""] * 5
    assert findings[0].found == f"{jax.device_count()} x cpu (cpu)"
    assert list((tmp_path / "run").iterdir()) == []  # No probe is left.
    preflight.require(preflight.cheap(tmp_path / "run", synthetic.config()))


def test_a_cpu_beside_an_accelerator_is_named(monkeypatch, tmp_path, caplog):
    before = jax.config.jax_platforms
    monkeypatch.setattr(multihost, "tpu_devices", lambda: [pathlib.Path("/dev/null")])
    assert preflight.check_devices().problem == ""  # The tests ask for the CPU.
    jax.config.update("jax_platforms", None)
    try:
        assert "the CPU alone, but there is /dev/null" in preflight.check_devices().problem
        preflight.require(preflight.cheap(tmp_path, synthetic.config()))
    finally:
        jax.config.update("jax_platforms", before)
    assert "set JAX_PLATFORMS=cpu" in caplog.text


def test_a_run_directory_without_write_access_is_named(tmp_path):
    (tmp_path / "file").touch()
    run = tmp_path / "file" / "run"
    problem = f"can't write to workdir {run}: Not a directory"
    assert preflight.check_workdir(run).problem == problem
    with pytest.raises(ValueError, match=problem):
        preflight.require(preflight.cheap(run, synthetic.config()))


def _as_one_of(monkeypatch, others):
    """Makes this process 0 of several; `others` map its values to their answers."""
    monkeypatch.setattr(jax, "process_count", lambda: 1 + len(others))
    monkeypatch.setattr(
        multihost,
        "gather",
        lambda text: [text, *(json.dumps(answer(json.loads(text))) for answer in others)],
    )


def test_a_run_directory_that_is_not_shared_is_named(monkeypatch, tmp_path):
    # The other's token is not in a file here.
    _as_one_of(monkeypatch, [lambda values: ["token", "", "there"] if values else values])
    problem = preflight.check_workdir(tmp_path).problem
    assert "process 1 (there; No such file or directory)" in problem
    assert f"wrote to workdir {tmp_path} is not seen from process 0" in problem
    assert "network file system" in problem
    _as_one_of(monkeypatch, [lambda values: ["", "Read-only", "there"] if values else values])
    problem = preflight.check_workdir(tmp_path).problem
    assert problem == f"can't write to workdir {tmp_path} from process 1 (there): Read-only"


def test_processes_that_differ_are_named(monkeypatch):
    own = preflight.facts(synthetic.config())
    other_config = config_io.to_json(synthetic.config(model__k=3))
    _as_one_of(
        monkeypatch,
        [
            lambda values: ["b", values[1] | {"jax": "0.1"}],
            lambda values: ["c", values[1] | {"config": other_config}],
            lambda values: ["d", values[1] | {"config": None}],
        ],
    )
    assert preflight.check_equal(own).problem.split("; ") == [
        f"process 1 (b): jax 0.1, others {own['jax']}",
        "process 2 (c): config model.k: 2 -> 3",
        "process 3 (d): no --config, others have one",
        "install and start the same everywhere",
    ]


def test_little_space_is_a_warning(monkeypatch, tmp_path, caplog):
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1_500_000_000))
    finding = preflight.check_free_space(tmp_path / "not" / "there")
    assert finding.problem.startswith(f"1.5 GB are free for {tmp_path}/not/there, less than 2")
    preflight.require([finding])
    assert caplog.record_tuples[-1][1] == logging.WARNING
    assert preflight.check_free_space(tmp_path, 1.0).problem == ""
    assert preflight.check_free_space("gs://bucket/run").problem == ""


@pytest.fixture
def hanging(monkeypatch):
    end = threading.Event()
    monkeypatch.setattr(preflight, "check_collective", end.wait)
    yield
    end.set()


def test_a_collective_that_hangs_is_reported(hanging, tmp_path):
    findings, together = preflight.thorough(tmp_path, timeout=0.5)
    assert not together
    assert [finding.check for finding in findings] == ["devices", "collective", "free space"]
    assert findings[1].problem.startswith("no answer within 0.5 s. Does another program hold")


def test_a_wrong_sum_and_an_error_are_problems(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "jit", lambda *args, **options: lambda array: 7)
    assert "over 8 devices is 7, not 36" in preflight.check_collective().problem

    def broken():
        raise RuntimeError("no driver")

    monkeypatch.setattr(preflight, "check_devices", broken)
    findings, together = preflight.thorough(tmp_path)
    assert not together
    assert findings == [Finding("devices", "", "RuntimeError: no driver")]


def test_the_command_prints_the_problems(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(doctor, "Console", lambda: Console(width=300))

    def run(workdir):
        values = flags.FlagValues()
        doctor.define_flags(values)
        values(["doctor", f"--workdir={workdir}", "--min_free_gb=0"])
        monkeypatch.setattr(doctor.flags, "FLAGS", values)
        with pytest.raises(SystemExit) as ended:
            doctor.main()
        return ended.value.code, capsys.readouterr().out

    status, output = run(tmp_path / "[run]")
    assert status == 0
    assert output.count("│ ok ") == 6
    assert f"{tmp_path}/[run]: written and read" in output
    (tmp_path / "file").touch()
    status, output = run(tmp_path / "file")
    assert status == 1
    assert f"problem: workdir: can't write to workdir {tmp_path}/file: " in output


def test_findings_of_several_processes_become_one_table(monkeypatch):
    bad = "1 GB are free"
    other = [{"check": "devices", "found": "4", "problem": "", "stops": True}]
    other += [{"check": "free space", "found": "1 GB", "problem": bad, "stops": False}]
    _as_one_of(monkeypatch, [lambda values: other])
    rows = doctor.gather([Finding("devices", "4"), Finding("free space", "9 GB", stops=False)])
    assert [(row.check, row.problem) for row in rows] == [
        ("devices", ""),
        ("free space, process 0", ""),
        ("free space, process 1", bad),
    ]
