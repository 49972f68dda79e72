"""Table of the configs that are compiled for devices that are not there."""

import json
import subprocess

import pytest

from benchmarks import freshness, topologies
from benchmarks.tables import topologies as tables

STEP = {
    "peak_bytes": 3 * 2**20,
    "parameter_bytes": 2_000_000,
    "collectives": {"all-reduce": [2.0, 5_000_000.0]},
    "seconds": {"products": 0.001, "step": 0.002},
}
REFUSED = "train.batch_size=64 must be a multiple of 256 devices"


@pytest.fixture
def _compiler(monkeypatch):
    """Refuses to share fewer than 256 examples on v5e-256; knows no v5e-8."""

    def run(command, **_):
        text = " ".join(command)
        if "--topology=v5e-8" in text:
            return subprocess.CompletedProcess(command, 1, "", "Traceback ...\nTypeError: bug\n")
        if "--topology=v5e-256" in text and "batch_size" not in text:
            return subprocess.CompletedProcess(command, 1, "", f"error: {REFUSED}\n")
        path = command[-1].removeprefix("--json=")
        with open(path, "w") as file:
            json.dump({"training": STEP, "evaluation": STEP}, file)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(topologies.subprocess, "run", run)


@pytest.mark.usefixtures("_compiler")
def test_a_batch_that_is_refused_is_compiled_larger(tmp_path, monkeypatch):
    rows = {
        name: {slice_: topologies.cell(topologies.CASES[name], slice_) for slice_ in slices}
        for name, slices in {
            "watch": ("v5e-1", "v5e-256"),
            "vggsound:size=base": ("v5e-1",),
            "vggsound, mesh.fsdp=256": ("v5e-256",),
        }.items()
    }
    own = rows["watch"]["v5e-256"]
    assert own["first_refused"] == REFUSED
    assert "--config.train.batch_size=1024" in own["command"]
    monkeypatch.setattr(freshness, "RESULTS", tmp_path)
    (tmp_path / "t.json").write_text(json.dumps({"rows": rows}))
    assert tables.topologies("t.json").splitlines() == [
        "| config | v5e-1 | v5e-256 |",
        "| --- | --- | --- |",
        "| `watch` | 2.00 ms, 3 MiB | 1,024: 2.00 ms, 3 MiB |",
        "",
        f"`watch` for v5e-256: {REFUSED}.",
    ]
    assert tables.sizes("t.json").endswith("| `vggsound:size=base` | v5e-1 | 2.0 | 50.0 | 0.00 |")
    assert "| 5.00 | 4.00 | 1.25 | 3 MiB |" in tables.divided("t.json")


@pytest.mark.usefixtures("_compiler")
def test_what_is_no_refusal_ends_with_its_traceback():
    with pytest.raises(RuntimeError, match="TypeError: bug"):
        topologies.cell(topologies.CASES["watch"], "v5e-8")
