"""Every file of golden arrays is held by a test.

This is the table of them all; the tests' own files say which tensors of a file they compare.

| file | test | what it holds against the file |
| --- | --- | --- |
| `sft_{poolk,ks,kspad}_{max,avg,attn,topk,attn_topk,attn_wkmedoids}.npz` | \
`reference/test_golden_sft.py::test_golden_model` | all tensors, positions selected, loss; \
but for `kspad` the gradient |
| `VARIANT_masked_sft_poolk_{max,attn_topk}.npz` | \
`reference/test_golden_sft.py::test_golden_model` | the same, with the block-sparse pattern |
| `sft_fusionlayer_{max,topk}.npz` | `reference/test_golden_sft.py::test_golden_model` | all \
tensors and loss, with the authors' fusion layer |
| `mixup_sft_any_layer{0,2,3}.npz` | `reference/test_golden_mixup.py::test_golden_mixup` | \
all tensors, mixed loss, and the gradient where the file has one |
| `mixup_sft_fused_layer{1,3}.npz` | `reference/test_golden_mixup.py::test_golden_mixup` | \
the same |
| `mixup_sft_within_layer{0,1_pre2}.npz` | \
`reference/test_golden_mixup.py::test_golden_mixup` | the same |
| `mixup_mbt_any_layer{0,2}.npz` | `reference/test_golden_mixup.py::test_golden_mixup` | the \
same |
| `{latefuse,concat,mbt}_{poolk,ks}.npz` | \
`reference/test_golden_baselines.py::test_golden_baseline` | all blocks, logits, loss; of \
`poolk` the gradient |
| `unimodal_{rgb,spec,text}_{poolk,ks}.npz` | \
`reference/test_golden_baselines.py::test_golden_baseline` | the same |
| `MulT_{1_0,2_2}.npz` | `reference/test_golden_baselines.py::test_golden_baseline` | all \
layers, logits, loss; of `2_2` the gradient |
| `pools.npz` | `reference/test_golden_sft.py::test_golden_pool_alone` | each pool alone |
| `sparse_masks.npz` | `ops/attention/test_block_sparse.py::test_golden_pattern` | \
`BlockSparsePattern` |
| `metrics.npz` | `evaluation/test_ranking.py::test_golden_top_k` | accuracy among the top k |
| `metrics.npz` | `evaluation/test_ranking.py::test_golden_ranking` | AP, AUC and d', by \
class too |
| `metrics.npz` | `evaluation/test_sentiment.py::test_golden_binary_metrics` | accuracy and \
F1 of positive and negative |
| `metrics.npz` | `evaluation/test_sentiment.py::test_golden_regression_metrics` | metrics of \
the predicted numbers |
| `optim_AdamW_lr1e-3.npz` | `reference/test_golden_optim.py::test_golden_steps` | parameters \
after three steps |
| `init_stats.json` | `reference/test_initial_parameters.py::test_golden_names_and_shapes` | \
names and shapes of parameters |
| `init_stats.json` | `reference/test_initial_parameters.py::test_golden_initial_parameters` \
| their mean, spread and largest magnitude |
| `summary.json` | \
`reference/test_golden_coverage.py::test_golden_summary_says_what_the_arrays_say` | the error \
of float32 logits |

With `SFT_GOLDEN_DIR` the tests take whatever files of these kinds the folder has; what \
stands here
is about those of this repository.
"""

import importlib
import itertools
import json
import pathlib
import re

import numpy as np
import pytest
import reference

TESTS = pathlib.Path(__file__).parents[1]
FOLDER = TESTS / "golden"
FILES = {path.name for path in FOLDER.iterdir()}

pytestmark = pytest.mark.skipif(
    reference.FOLDER.resolve() != FOLDER.resolve(), reason="about the files of this repository"
)


def _names(pattern):
    """The names of a pattern that has alternatives in braces."""
    parts = [part.split(",") for part in re.split("[{}]", pattern)]
    return {"".join(chosen) for chosen in itertools.product(*parts)}


TABLE = [
    (_names(pattern), file, test)
    for pattern, file, test in re.findall(
        r"^\| `(\S+)` \| `(\S+)::(\w+)` \|", __doc__, re.MULTILINE
    )
]


def test_golden_files_are_those_of_the_table():
    assert len(TABLE) == len(re.findall(r"^\| `", __doc__, re.MULTILINE))
    assert set.union(*(names for names, _, _ in TABLE)) == FILES


@pytest.mark.parametrize(("names", "file", "test"), TABLE)
def test_golden_files_are_read_where_the_table_says(names, file, test, monkeypatch):
    monkeypatch.syspath_prepend(TESTS / pathlib.Path(file).parent)
    function = getattr(importlib.import_module(pathlib.Path(file).stem), test)
    marks = getattr(function, "pytestmark", [])
    parameters = {mark.args[0]: mark.args[1] for mark in marks if mark.name == "parametrize"}
    if len(names) > 1:  # The stems are what the test is run for.
        assert {name.removesuffix(".npz") for name in names} <= {
            *(getattr(name, "values", [name])[0] for name in parameters["name"])
        }
        return
    (name,) = names
    text = (TESTS / file).read_text()
    assert f'reference.load("{name.removesuffix(".npz")}")' in text or f'"{name}"' in text


def test_golden_summary_says_what_the_arrays_say():
    summary = json.loads((reference.FOLDER / "summary.json").read_text())
    # No error: it says that their metrics of that case of `metrics.npz` raised none.
    assert summary.pop("vgg_missing_class") == "returned"
    found = {}
    for name in FILES:
        if name.endswith(".npz") and "f32/logits" in (arrays := reference.load(name[:-4])[0]):
            error = arrays["f32/logits"].astype(np.float64) - arrays["f64/logits"]
            found[name[:-4]] = np.abs(error).max()
    assert found == summary
