"""Cost by runtime: what a row holds, which tools are missing, and outputs like JAX's."""

import argparse
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import tiny_exports

from benchmarks.edge import __main__ as edge
from benchmarks.edge import runtimes, sides
from sft_jax.export.written import with_k
from sft_jax.profile.isolated import IsolatedFunction

DOCS = pathlib.Path(__file__).parents[1] / "docs"
OPTIONS = argparse.Namespace(k=[0, 2], rounds=3, calls=7)


def fake_side(outputs, seconds):
    """A runtime that is slower with more tokens."""

    def answer(request):
        k = request["k"]
        if "calls" not in request:
            return outputs
        assert request["calls"] == 7
        return {"wall": seconds * (1 + k), "cpu": seconds / 2}

    return answer


def test_a_row_has_cost_and_parity():
    wanted, other = [[0.9, 0.1], [0.3, 0.7]], [[0.8, 0.2], [0.6, 0.4]]
    given = {"jax": fake_side(wanted, 1e-4), "litert": fake_side(other, 3e-4)}
    prepared = {name: runtimes.Prepared(pathlib.Path(name), 1000) for name in given}
    rows = edge.rows(prepared, given, np.array([0, 1]), 4, OPTIONS)
    assert [*rows["jax"]["k"]] == ["0", "2", "4"]
    assert [*rows["litert"]["k"]] == ["4"]  # Its file is for one k.
    figures = rows["litert"]["k"]["4"]
    assert figures["wall"]["median"] == pytest.approx(1500)
    assert figures["cpu"]["range"] == pytest.approx([150, 150])
    assert figures["ratio"]["median"] == pytest.approx(3)
    assert figures["largest_difference"] == pytest.approx(0.3)
    assert (figures["same_class"], figures["accuracy"]) == (1, 0.5)
    assert rows["litert"]["bytes"] == 1000
    text = [*edge.lines({"rows": rows, "skipped": {"wasm_int8": "node was not found"}})]
    assert "litert, k=4: 1500 µs, 3.00 times jax" in text
    assert "wasm_int8 was skipped: node was not found" in text


def test_a_missing_tool_is_named(tmp_path, monkeypatch, capsys):
    def fail(*command):
        if "pip" in command:
            raise subprocess.CalledProcessError(1, command, stderr="no index")

    monkeypatch.setattr(runtimes, "_call", fail)
    monkeypatch.setenv("PATH", str(tmp_path))
    job = runtimes.Job(tmp_path, tiny_exports.classifier(), tmp_path)
    names = ["jax", "c_o2_float", "wasm_int8", "litert"]
    prepared, skipped = runtimes.prepare(job, names)
    assert [*prepared] == ["jax"]
    assert [*skipped] == names[1:]
    assert "gcc was not found" in skipped["c_o2_float"]
    assert "clang was not found" in skipped["wasm_int8"]
    assert "litert-converter==0.5.0: no index" in skipped["litert"]
    assert "c_o2_float is skipped: gcc was not found" in capsys.readouterr().err


def test_the_page_installs_what_the_benchmark_installs():
    page = (DOCS / "export.md").read_text()
    assert all(f"pip install {' '.join(packages)}\n" in page for packages in runtimes.LITERT)


def written_windows(folder, classifier):
    """Windows in a folder, and the outputs of JAX with one token kept."""
    values, masks = tiny_exports.raw_inputs()
    for name, mask in masks.items():
        values[name][~mask] = 1000.0
        mask[:] = True
    sides.Windows.write(folder, values, len(classifier.info.class_names))
    return tiny_exports.expected(with_k(classifier, 1), values, masks)


def check(side, prepared, folder, wanted):
    side({"open": str(prepared.path), "windows": str(folder)})
    np.testing.assert_allclose(side({"k": 1}), wanted, atol=1e-5)
    seconds = side({"k": 1, "calls": 9})
    assert set(seconds) == {"wall", "cpu"}
    assert seconds["wall"] > 0


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("name", ["c_o2_float", "onnx_float"])
def test_a_side_computes_the_outputs_of_jax(name, tmp_path):
    classifier = tiny_exports.classifier()
    wanted = written_windows(tmp_path, classifier)
    job = runtimes.Job(tmp_path, classifier, tmp_path)
    side = getattr(sides, runtimes.RUNTIMES[name].side)()
    check(side, runtimes.RUNTIMES[name].prepare(job), tmp_path, wanted)


@pytest.mark.process
@pytest.mark.skipif(
    not all(map(shutil.which, ("clang", "wasm-ld", "node"))), reason="needs clang, lld and Node"
)
def test_webassembly_in_node_computes_the_outputs_of_jax(tmp_path):
    classifier = tiny_exports.classifier()
    wanted = written_windows(tmp_path, classifier)
    prepared = runtimes.RUNTIMES["wasm_float"].prepare(runtimes.Job(tmp_path, classifier, tmp_path))
    with IsolatedFunction("wasm", program=prepared.program) as side:
        check(side, prepared, tmp_path, wanted)
