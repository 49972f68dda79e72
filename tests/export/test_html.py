"""The page computes in a browser what Python computes, and shows it."""

import base64
import json
import re
import shutil
import subprocess

import made_up
import numpy as np
import pytest

from sft_jax import ModalitySpec
from sft_jax.data.dataset import Standardisation
from sft_jax.export import c_library, html
from sft_jax.export.written import with_k

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_clang = pytest.mark.skipif(
    not (shutil.which("clang") and shutil.which("wasm-ld")), reason="needs clang and lld"
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

SERIES = {"speech": ModalitySpec(9, 12, patch_size=2), "touch": ModalitySpec(8, 3, patch_size=3)}


def recordings(classifier, count=7):
    random = np.random.default_rng(1)
    inputs, masks = {}, {}
    for name, spec in classifier.info.modalities.items():
        own = classifier.info.statistics[name]
        values = random.normal(size=(count, *spec.shape)) * own.std + own.mean
        inputs[name] = values.astype(np.float32)
        masks[name] = np.ones((count, *spec.lengths), bool)
        masks[name][1, 5:] = False
    masks[min(masks)][2] = False
    labels = np.arange(count) % 4
    if classifier.model.task in ("multi_label", "regression"):
        labels = random.integers(0, 2, size=(count, 4)).astype(float)
    return html.Recordings(inputs, masks, labels, [f"</script> {i}" for i in range(count)])


def classifiers():
    """One of each task; sequences drawn as lines and as pictures, and images."""
    standard = {
        name: Standardisation((3.0,) * spec.features, (2.0,) * spec.features)
        for name, spec in SERIES.items()
    }
    yield made_up.classifier()
    yield made_up.classifier(SERIES, standard, task="multi_label", pool="max", k=2)
    yield made_up.classifier(SERIES, standard, task="regression", pool="none")
    yield made_up.classifier(task="ordinal", readout="fresh_cls", k={"pressure": 1, "view": 3})


def opened(path, address=""):
    """Document of a page after its program has run, and what it wrote to the console."""
    result = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--virtual-time-budget=5000", "--dump-dom", f"file://{path}{address}",
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return result.stdout, re.findall(r"CONSOLE.*", result.stderr)


def attribute(document, name):
    found = re.search(rf'data-{name}="([^"]*)"', document)
    assert found, f"no data-{name}"
    return json.loads(found[1].replace("&quot;", '"'))


@pytest.mark.process
@needs_clang
@needs_chromium
@pytest.mark.parametrize("index", range(4))
def test_page_decides_like_python_on_every_example(index, tmp_path):
    classifier = list(classifiers())[index]
    shown = recordings(classifier)
    written = html.write(classifier, tmp_path / "page.html", recordings=shown)
    document, console = opened(written.path)
    assert console == []
    assert 'data-state="ready"' in document
    assert attribute(document, "same") == 7
    assert attribute(document, "difference") < 1e-5
    # What is shown first is computed here from the arrays.
    first = {name: values[:1] for name, values in shown.inputs.items()}
    wanted = made_up.expected(classifier, first, {n: m[:1] for n, m in shown.masks.items()})
    np.testing.assert_allclose(attribute(document, "outputs"), wanted[0], atol=1e-5)


@pytest.mark.process
@needs_clang
@needs_chromium
def test_budget_and_modalities_are_those_of_the_controls(tmp_path):
    classifier = made_up.classifier()
    shown = recordings(classifier)
    written = html.write(classifier, tmp_path / "page.html", recordings=shown, quantize="int8")
    document, console = opened(written.path, "#k=1&off=view")
    assert console == []
    first = {name: values[:1] for name, values in shown.inputs.items()}
    masks = {name: mask[:1].copy() for name, mask in shown.masks.items()}
    masks["view"][:] = False
    wanted = written.predict(first, masks, k=1)
    np.testing.assert_allclose(attribute(document, "outputs"), wanted[0], atol=1e-6)
    exact = made_up.expected(with_k(classifier, 1), first, masks)
    assert np.abs(wanted - exact).max() > 1e-4  # The weights have 8 bits.
    assert document.count('class="kept"') == 1


@pytest.mark.process
@needs_clang
@needs_chromium
def test_page_says_what_is_wrong(tmp_path):
    classifier = made_up.classifier()
    path = tmp_path / "page.html"
    html.write(classifier, path, recordings=recordings(classifier))
    path.write_text(path.read_text().replace('"wasm": "AGFzbQ', '"wasm": "BBBBBB'))
    document, console = opened(path)
    assert "This page does not work here" in document
    assert console


def test_examples_are_spread_over_the_classes():
    labels = np.array([2, 0, 1, 0, 2, 1, 0, 0, 0])
    few = html.Recordings({}, {}, np.repeat(labels, 50), [str(i) for i in range(450)])
    chosen = html.chosen_rows(few, example_bytes=1)
    assert len(chosen) == html.MOST_RECORDINGS
    assert np.bincount(few.labels[chosen]).tolist() == [20, 8, 8]
    assert len(html.chosen_rows(few, example_bytes=10**6)) == 6


def test_page_needs_examples(tmp_path):
    with pytest.raises(ValueError, match="there are none"):
        html.write(made_up.classifier(), tmp_path / "page.html")


def test_missing_compiler_is_named(tmp_path, monkeypatch):
    classifier = made_up.classifier()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(c_library.CompilerError, match="clang was not found"):
        html.write(classifier, tmp_path / "page.html", recordings=recordings(classifier))


def test_data_of_a_page_is_what_was_recorded():
    classifier = made_up.classifier()
    shown = recordings(classifier)
    data = html.page_data(classifier, {"k": {"pressure": 3, "view": 3}}, shown)
    values = np.frombuffer(base64.b64decode(data["values"]), "<f4").reshape(7, -1)
    last = shown.inputs["view"][6].ravel()
    np.testing.assert_array_equal(values[-1, -len(last) :], last)
    assert data["labels"] == sorted(shown.labels.tolist())
