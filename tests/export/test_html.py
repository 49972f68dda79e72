"""The page computes in a browser what Python computes, and shows it."""

import base64
import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_exports
from browser import needs_chromium, opened

from sft_jax import ModalitySpec
from sft_jax.data.dataset import Dataset
from sft_jax.export import comparison, html
from sft_jax.export.c import library
from sft_jax.export.command import export_run
from sft_jax.export.written import with_k

needs_clang = pytest.mark.skipif(
    not (shutil.which("clang") and shutil.which("wasm-ld")), reason="needs clang and lld"
)

SERIES = {"speech": ModalitySpec(9, 12, patch_size=2), "touch": ModalitySpec(8, 3, patch_size=3)}


def dataset(classifier, count=7):
    """Test split: some examples are short, and one lacks a modality."""
    info, task = classifier.info, classifier.model.task
    random = np.random.default_rng(1)
    records = []
    for i in range(count):
        inputs = {}
        for name, spec in info.modalities.items():
            own = info.statistics[name]
            shape = (min(5 if i == 1 else 99, spec.lengths[0]), *spec.shape[1:])
            inputs[name] = (random.normal(size=shape) * own.std + own.mean).astype(np.float32)
        if i == 2:
            del inputs[min(inputs)]
        several = random.integers(0, 2, size=4)
        label = several if task in ("multi_label", "regression") else i % 4
        records.append({"id": f"</script> {i}", "inputs": inputs, "label": label})
    described = dataclasses.replace(info, num_examples={"test": count})
    return Dataset(described, lambda split: records)


def shown_first(classifier):
    """The example that a page shows first, of the first class."""
    return comparison.stack(dataset(classifier), [0])


def classifiers():
    """One of each task; sequences drawn as lines and as pictures, and images."""
    make = tiny_exports.classifier
    yield make()
    yield make(modalities=SERIES, task="multi_label", pool="max", k=2)
    yield make(modalities=SERIES, task="regression", pool="none")
    ordinal = make(task="ordinal", readout="fresh_cls", k={"sight": 1, "sound": 3})
    yield dataclasses.replace(ordinal, params=jax.tree.map(jnp.asarray, ordinal.params))


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
    written = html.write(classifier, tmp_path / "page.html", dataset=dataset(classifier))
    document, console = opened(written.path)
    assert console == []
    assert 'data-state="ready"' in document
    assert attribute(document, "same") == 7
    assert attribute(document, "difference") < 1e-5
    first = shown_first(classifier)
    wanted = tiny_exports.expected(classifier, first.raw, first.masks)
    np.testing.assert_allclose(attribute(document, "outputs"), wanted[0], atol=1e-5)


@pytest.mark.process
@needs_clang
@needs_chromium
def test_budget_and_modalities_are_those_of_the_controls(tmp_path):
    classifier = tiny_exports.classifier()
    data = dataset(classifier)
    written = html.write(classifier, tmp_path / "page.html", dataset=data, quantize="int8")
    document, console = opened(written.path, "#k=1&off=sight")
    assert console == []
    first, _, masks, _ = shown_first(classifier)
    masks["sight"][:] = False
    wanted = written.predict(first, masks, k=1)
    np.testing.assert_allclose(attribute(document, "outputs"), wanted[0], atol=1e-6)
    exact = tiny_exports.expected(with_k(classifier, 1), first, masks)
    assert np.abs(wanted - exact).max() > 1e-4  # The weights have 8 bits.
    assert document.count('class="kept"') == 1


@pytest.mark.process
@needs_clang
@needs_chromium
def test_page_shows_derived_inputs_and_leaves_them_out(tmp_path):
    classifier = tiny_exports.with_summary()
    data = dataset(classifier)
    written = html.write(classifier, tmp_path / "page.html", dataset=data)
    document, console = opened(written.path, "#off=touch_summary")
    assert console == []
    first, _, masks, _ = shown_first(classifier)
    masks["touch_summary"][:] = False
    wanted = tiny_exports.expected(classifier, first, masks)
    np.testing.assert_allclose(attribute(document, "outputs"), wanted[0], atol=1e-5)
    assert attribute(document, "same") == 7
    assert "summary of touch, 24 features" in document


@pytest.mark.process
@needs_clang
@needs_chromium
def test_page_without_any_modality_shows_no_outputs(tmp_path):
    classifier = tiny_exports.classifier()
    path = html.write(classifier, tmp_path / "page.html", dataset=dataset(classifier)).path
    document, console = opened(path, "#off=sight,sound")
    assert console == []
    assert attribute(document, "outputs") is None
    assert re.search(r'<table id="outputs"><tr><td>no input</td></tr></table>', document)
    assert 'data-state="ready"' in document


@pytest.mark.process
@needs_clang
@needs_chromium
def test_page_says_what_is_wrong(tmp_path):
    classifier = tiny_exports.classifier()
    path = tmp_path / "page.html"
    html.write(classifier, path, dataset=dataset(classifier))
    path.write_text(path.read_text().replace('"wasm": "AGFzbQ', '"wasm": "BBBBBB'))
    document, console = opened(path)
    assert "This page does not work here" in document
    assert console


def test_examples_are_spread_over_the_classes():
    labels = np.repeat([2, 0, 1, 0, 2, 1, 0, 0, 0], 50)
    chosen = html.chosen_rows(labels, example_bytes=1)
    assert len(chosen) == html.MOST_EXAMPLES
    assert np.bincount(labels[chosen]).tolist() == [20, 8, 8]
    assert len(html.chosen_rows(labels, example_bytes=10**6)) == 6


def test_random_examples_are_not_shown(tmp_path):
    with pytest.raises(ValueError, match="examples=3: --format=html shows the test split"):
        export_run(tmp_path, "html", tmp_path / "page.html", examples=3)


def test_missing_compiler_is_named(tmp_path, monkeypatch):
    classifier = tiny_exports.classifier()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(library.CompilerError, match="clang was not found"):
        html.write(classifier, tmp_path / "page.html", dataset=dataset(classifier))


def test_data_of_a_page_is_what_was_recorded():
    classifier = tiny_exports.classifier()
    data = html.page_data(classifier, {"k": {"sight": 3, "sound": 3}}, dataset(classifier))
    values = np.frombuffer(base64.b64decode(data["values"]), "<f4").reshape(7, -1)
    last = dataset(classifier).records("test")[3]["inputs"]["sound"].ravel()
    np.testing.assert_array_equal(values[-1, -len(last) :], last)
    assert data["labels"] == [0, 0, 1, 1, 2, 2, 3]
    assert data["ids"][-1] == "</script> 3"
