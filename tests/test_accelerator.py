"""`benchmarks/accelerator.py` on a CPU: its smallest form, and its errors."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from benchmarks.accelerator_sections import __main__ as accelerator
from benchmarks.accelerator_sections import attention_work, dense_work, plan, synthetic
from sft_jax import version
from sft_jax.profile import flops

ROOT = pathlib.Path(__file__).parents[1]


# Packages that an image with JAX, Flax, Optax and Orbax lacks, and `make wheels` does not pack.
ABSENT = ("array_record", "grain", "h5py", "matplotlib", "seglearn", "sklearn", "tensorboardX")
ABSENT += ("tensorflow_datasets", "torch")


def _run(path, *arguments):
    command = [sys.executable, str(ROOT / "benchmarks/accelerator.py"), f"--json={path}"]
    site = path.parent / "site"
    site.mkdir()
    blocked = f"import sys\nsys.modules |= dict.fromkeys({ABSENT})\n"
    (site / "sitecustomize.py").write_text(blocked)
    # One device, as in use, and the fastest compilation. Neither the working directory nor
    # PYTHONPATH leads to the checkout, as without an installation.
    names = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [*command, *arguments],
        cwd=path.parent,
        env={**os.environ, **names, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    return done, json.loads(path.read_text())


@pytest.mark.process
def test_the_smallest_form_measures_a_step(tmp_path):
    result = _smallest(tmp_path / "result.json", "--only=step_cost")
    assert result["sections"].keys() == {"machine", "step_cost"}


@pytest.mark.process
@pytest.mark.slow
def test_the_smallest_form_measures_every_section(tmp_path):
    sections = _smallest(tmp_path / "result.json")["sections"]
    assert sections.keys() == {"machine", *plan.SECTIONS}
    resumed = sections["resume"]["float32"]
    assert resumed["whole_sha256"] == resumed["resumed_sha256"]
    assert resumed["equal"]
    assert "--xla_gpu_deterministic_ops=true" in resumed["xla_flags"]
    assert sections["equality"]["unimodal"]["equal"]
    assert sections["equality"]["draws"]["beta"]["equal"]
    row = sections["roofline"]["attention, float32, batch 2, tiled, forward and backward"]
    assert row["flops"] == 7 * 2 * 2 * 5 * 21**2 * 8
    assert row["share_of_roofline"] > 0


def _smallest(path, *arguments):
    done, result = _run(path, "--smallest", *arguments)
    assert done.returncode == 0, done.stderr
    assert (result["complete"], result["failed"]) == (True, [])
    assert result["code"].items() > version.code().items()
    (cost,) = (row for row in result["sections"]["step_cost"].values() if "model" in row)
    assert cost["train_step_seconds"]["repeats"] >= 3
    assert cost["memory_analysis"]["temp_bytes"] > 0
    return result


@pytest.mark.process
def test_without_an_accelerator_it_exits_with_2(tmp_path):
    done, result = _run(tmp_path / "result.json")
    assert done.returncode == 2
    assert "found no accelerator" in done.stderr
    assert "--smallest" in result["message"]
    assert result["sections"].keys() == {"machine"}


@pytest.fixture
def results(tmp_path):
    return accelerator.Results(tmp_path / "result.json", commit=None)


def _child(**changes):
    request = {"name": "row", "config": "no_such_dataset", "argument": None, "changes": {}}
    child = plan.Child("step_cost", "process", "step_cost", request, {}, 0, 60)
    return child._replace(**changes)


@pytest.mark.process
def test_failures_are_recorded_and_counted(results, tmp_path):
    accelerator.run_child(_child(), results, end=float("inf"))
    row = json.loads((tmp_path / "result.json").read_text())["sections"]["step_cost"]["row"]
    assert "ModuleNotFoundError" in row["error"]
    assert "Traceback" in row["traceback"]
    assert len(results.failed) == 1
    accelerator.run_child(_child(module="no_such_section"), results, end=float("inf"))
    assert "No module named" in results.rows("step_cost")["process"]["error"]
    assert len(results.failed) == 2


@pytest.mark.process
def test_parts_without_time_are_named(results):
    accelerator.run_child(_child(name="late", least_seconds=20), results, end=0)
    assert "were left of --seconds" in results.rows("step_cost")["late"]["left_out"]
    accelerator.run_child(_child(name="slow", most_seconds=0.1), results, end=float("inf"))
    assert results.rows("step_cost")["slow"]["cut_short"] == "after 0 s"
    assert results.failed == []


def test_every_planned_request_is_valid(tmp_path):
    children = [
        child for group in plan.make(tmp_path, smallest=False) for lane in group for child in lane
    ]
    assert {child.section for child in children} == set(plan.SECTIONS)
    names = [(child.section, child.name) for child in children]
    assert len(set(names)) == len(names)
    for child in children:
        assert json.loads(json.dumps(child.request)) == child.request
        if "config" in child.request:
            keys = ("config", "argument", "changes")
            config = synthetic.load_config(*(child.request[key] for key in keys))
            assert config.model.dtype in child.name


def test_flops_counted_by_hand_are_those_of_the_jaxpr():
    works = attention_work.attention(2, 21, jax.numpy.dtype("float32"), ["plain", "tiled"])
    for backward in (False, True):
        works[f"dense {backward}"] = dense_work.dense(6, jax.numpy.float32, backward=backward)
    # The kernel that stores the weights need not compute them again.
    del works["attention, float32, batch 2, plain, forward and backward"]
    for name, work in works.items():
        assert flops.count(work.step, work.inputs).matmul_flops == work.flops, name
