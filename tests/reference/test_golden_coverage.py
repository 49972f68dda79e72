"""Every file of golden arrays is held by a test; the test's own docstring lists the tensors.

With `SFT_GOLDEN_DIR` the tests take the files of that folder. These checks are about the files of
this repository.
"""

import fnmatch
import importlib
import json
import pathlib

import numpy as np
import pytest
import reference

TESTS = pathlib.Path(__file__).parents[1]
FOLDER = TESTS / "golden"
FILES = {path.name for path in FOLDER.iterdir()}

GOLDEN = [
    # All tensors, selected positions and loss; for `poolk` and `ks` the gradient.
    ("sft_*.npz", "reference/test_golden_sft.py::test_golden_model"),
    ("VARIANT_masked_sft_*.npz", "reference/test_golden_sft.py::test_golden_model"),
    # All tensors and the mixed loss; the gradient where the file has one.
    ("mixup_*.npz", "reference/test_golden_mixup.py::test_golden_mixup"),
    # All blocks, logits and loss; for `poolk` and `MulT_2_2` the gradient.
    ("latefuse_*.npz", "reference/test_golden_baselines.py::test_golden_baseline"),
    ("concat_*.npz", "reference/test_golden_baselines.py::test_golden_baseline"),
    ("mbt_*.npz", "reference/test_golden_baselines.py::test_golden_baseline"),
    ("unimodal_*.npz", "reference/test_golden_baselines.py::test_golden_baseline"),
    ("MulT_*.npz", "reference/test_golden_baselines.py::test_golden_baseline"),
    ("pools.npz", "reference/test_golden_sft.py::test_golden_pool_alone"),
    ("sparse_masks.npz", "ops/attention/test_block_sparse.py::test_golden_pattern"),
    ("metrics.npz", "evaluation/test_ranking.py::test_golden_top_k"),
    ("metrics.npz", "evaluation/test_ranking.py::test_golden_ranking"),
    ("metrics.npz", "evaluation/test_sentiment.py::test_golden_binary_metrics"),
    ("metrics.npz", "evaluation/test_sentiment.py::test_golden_regression_metrics"),
    # Parameters after three steps.
    ("optim_AdamW_lr1e-3.npz", "reference/test_golden_optim.py::test_golden_steps"),
    ("init_stats.json", "reference/test_initial_parameters.py::test_golden_names_and_shapes"),
    ("init_stats.json", "reference/test_initial_parameters.py::test_golden_initial_parameters"),
    # Errors of the float32 logits.
    ("summary.json", "reference/test_golden_coverage.py::test_summary_agrees_with_the_arrays"),
]
"""Patterns of file names, and a test that compares with the files."""

pytestmark = pytest.mark.skipif(
    reference.FOLDER.resolve() != FOLDER.resolve(), reason="about the files of this repository"
)


def _stems(pattern):
    return {name.partition(".")[0] for name in fnmatch.filter(FILES, pattern)}


def test_every_golden_file_has_a_test():
    patterns = [pattern for pattern, _ in GOLDEN]
    assert [pattern for pattern in patterns if not _stems(pattern)] == []
    assert {name for pattern in patterns for name in fnmatch.filter(FILES, pattern)} == FILES


@pytest.mark.parametrize(("pattern", "test"), GOLDEN)
def test_golden_files_are_read_by_their_test(pattern, test, monkeypatch):
    file, _, name = test.partition("::")
    monkeypatch.syspath_prepend(TESTS / pathlib.Path(file).parent)
    function = getattr(importlib.import_module(pathlib.Path(file).stem), name)
    if "*" not in pattern:
        text = (TESTS / file).read_text()
        assert f'reference.load("{pattern.removesuffix(".npz")}")' in text or f'"{pattern}"' in text
        return
    marks = [mark for mark in function.pytestmark if mark.name == "parametrize"]
    names = {mark.args[0]: mark.args[1] for mark in marks}["name"]
    assert _stems(pattern) <= {getattr(name, "values", [name])[0] for name in names}


def test_summary_agrees_with_the_arrays():
    summary = json.loads((reference.FOLDER / "summary.json").read_text())
    # No error: their metrics of that case of `metrics.npz` raised none.
    assert summary.pop("vgg_missing_class") == "returned"
    errors = {}
    for name in FILES:
        if name.endswith(".npz") and "f32/logits" in (arrays := reference.load(name[:-4])[0]):
            error = arrays["f32/logits"].astype(np.float64) - arrays["f64/logits"]
            errors[name[:-4]] = np.abs(error).max()
    assert errors == summary
