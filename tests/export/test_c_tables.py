"""Tables and sizes of a C file, without a compiler."""

import jax
import numpy as np
import pytest
import tiny_exports

from sft_jax import export
from sft_jax.export import c
from sft_jax.export.c import folding, sizes, tables
from sft_jax.export.written import ExportedFileError
from sft_jax.profile import flops


@pytest.mark.parametrize("readout", c.READOUTS)
def test_multiplications_are_those_of_the_model(readout):
    classifier = tiny_exports.classifier(readout=readout)
    model = classifier.model
    cost = flops.count(
        lambda inputs: model.apply({"params": classifier.params}, inputs), model.example_inputs()
    )
    counted = sizes.multiply_accumulates(model, model.kept_tokens())
    # The model computes keys and values of the learned query, which the C file folds.
    assert counted == pytest.approx(cost.matmul_flops / 2, rel=0.1)


@pytest.mark.parametrize("damage", ["int x;", '/*\n Metadata: {"format\n*/', "/* Metadata: {} */"])
def test_other_files_are_refused(damage, tmp_path):
    (tmp_path / "other.c").write_text(damage)
    with pytest.raises(ExportedFileError, match=r"other\.c"):
        c.read(tmp_path / "other.c")


def test_table_of_formats_names_what_is_written():
    takes = export.EXPORTERS["c"].takes
    assert takes["pool"] == tuple(c.POOLS)
    with pytest.raises(ValueError, match="does not take pool=tome"):
        export.write(tiny_exports.classifier(pool="tome"), "model.c", "c")


def test_a_bias_or_scale_that_has_no_effect_is_left_out():
    classifier = tiny_exports.classifier(n_post=2)
    folded = folding.fold(classifier.model, classifier.params)
    written = tables.Tables(int8=False, axes=2)
    info = classifier.info
    written.add_model(folded, info.modalities, info.statistics, classifier.model.kept_tokens())
    numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(classifier.params))
    width, attentions, affine_norms, modalities = 8, 6, 5, 2
    # Biases of keys and values; norms before layers; CLS and its position are one.
    left_out = width * (2 * attentions + 2 * affine_norms + modalities)
    statistics = 3 * sum(spec.features for spec in info.modalities.values())
    assert written.constant_bytes == 4 * (numbers - left_out + statistics)


def test_parameters_that_are_not_finite_are_refused():
    written = tables.Tables(int8=False, axes=1)
    classifier = tiny_exports.classifier()
    params = classifier.params | {
        "head": jax.tree.map(lambda a: a + np.inf, classifier.params["head"])
    }
    folded = folding.fold(classifier.model, params)
    info = classifier.info
    with pytest.raises(ValueError, match="parameter head_kernel"):
        written.add_model(folded, info.modalities, info.statistics, classifier.model.kept_tokens())
