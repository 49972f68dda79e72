"""One C file computes what the model computes, without a library, and says what it costs."""

import re
import shutil
import subprocess

import made_up
import numpy as np
import pytest

from sft_jax import export
from sft_jax.export import c, c_library, c_sizes
from sft_jax.export.written import ExportedFileError, kept_tokens, with_k
from sft_jax.profile import flops

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

TOLERANCE = 1e-5


def write(classifier, folder, **options):
    return c.write(classifier, folder / "model.c", **options)


def assert_same(classifier, written, k=None):
    inputs, masks = made_up.raw_inputs()
    wanted = made_up.expected(with_k(classifier, k), inputs, masks)
    np.testing.assert_allclose(
        written.predict(inputs, masks, k), wanted, atol=TOLERANCE, rtol=TOLERANCE
    )


@pytest.mark.parametrize("pool", c.POOLS)
def test_every_pool_is_that_of_the_model(pool, tmp_path):
    classifier = made_up.classifier(pool=pool)
    assert_same(classifier, write(classifier, tmp_path))


@pytest.mark.parametrize("readout", c.READOUTS)
def test_every_readout_is_that_of_the_model(readout, tmp_path):
    classifier = made_up.classifier(readout=readout)
    assert_same(classifier, write(classifier, tmp_path))


@pytest.mark.parametrize("task", c.HEADS)
def test_every_head_is_that_of_the_model(task, tmp_path):
    classifier = made_up.classifier(task=task)
    assert_same(classifier, write(classifier, tmp_path))


def test_blocks_are_applied_in_their_order(tmp_path):
    classifier = made_up.classifier(n_pre=2, n_post=4)
    assert_same(classifier, write(classifier, tmp_path))


def test_models_without_blocks_are_written(tmp_path):
    classifier = made_up.classifier(n_pre=0, n_post=0, readout="mean")
    assert_same(classifier, write(classifier, tmp_path))


@pytest.mark.parametrize("k", [0, 1, 4, {"pressure": 2, "view": 12}])
def test_any_k_is_chosen_at_run_time(k, tmp_path):
    classifier = made_up.classifier()
    assert_same(classifier, write(classifier, tmp_path), k)


def test_default_k_is_that_of_the_call(tmp_path):
    classifier = made_up.classifier()
    inputs, masks = made_up.raw_inputs()
    written = write(classifier, tmp_path, k=1)
    np.testing.assert_array_equal(
        written.predict(inputs, masks), written.predict(inputs, masks, k=1)
    )


def test_absent_modality_and_short_input_need_no_mask(tmp_path):
    written = write(made_up.classifier(), tmp_path)
    inputs, masks = made_up.raw_inputs()
    part = {"view": inputs["view"][2:3, :3], "pressure": None}
    mask = {"view": masks["view"][2:3, :3]}
    masks["pressure"][:] = False
    np.testing.assert_array_equal(written.predict(part, mask), written.predict(inputs, masks)[2:3])


def test_weights_of_8_bits_round_each_output_by_its_own_scale(tmp_path):
    classifier = made_up.classifier()
    written = write(classifier, tmp_path, quantize="int8")
    inputs, masks = made_up.raw_inputs()
    wanted = made_up.expected(classifier, inputs, masks)
    difference = np.abs(written.predict(inputs, masks) - wanted).max()
    assert TOLERANCE < difference < 0.1
    exact = write(classifier, tmp_path)
    assert written.sizes["constant_bytes"] < 0.6 * exact.sizes["constant_bytes"]


def test_flags_tell_the_tokens_of_largest_saliency(tmp_path):
    classifier = made_up.classifier(k=2)
    path = write(classifier, tmp_path).path
    inputs, masks = made_up.raw_inputs()
    kept = np.full((6, 4 + 12), 7, np.uint8)
    c_library.Library(path, [*made_up.MODALITIES], 4).run(inputs, masks, kept=kept)
    assert set(kept.ravel()) == {0, 1}
    counts = np.stack([kept[:, :4].sum(axis=1), kept[:, 4:].sum(axis=1)], axis=1)
    assert counts.tolist() == [[2, 2], [2, 2], [2, 2], [0, 2], [2, 0], [0, 0]]
    # The third token of this example is padding throughout.
    assert kept[1, 2] == 0


def test_file_calls_no_function_of_a_library(tmp_path):
    path = write(made_up.classifier(pool="none"), tmp_path).path
    for level in ("-O0", "-O3", "-Os"):
        c_library.compile_c(path, str(tmp_path / "model.o"), "-c", level)
        assert c_library.run_tool("nm", "-u", str(tmp_path / "model.o")) == ""


def test_declarations_are_there_without_the_code(tmp_path):
    path = write(made_up.classifier(), tmp_path).path
    main = tmp_path / "main.c"
    main.write_text(f'#define SFT_DECLARATIONS\n#include "{path.name}"\nint x = SFT_INPUT_view;\n')
    c_library.compile_c(main, str(tmp_path / "main.o"), "-c")
    names = c_library.run_tool("nm", str(tmp_path / "main.o"))
    assert re.findall(r"\w+$", names, re.MULTILINE) == ["x"]


def test_sizes_are_those_of_the_compiled_file(tmp_path):
    for attributes in ({}, {"pool": "max", "readout": "attention", "task": "ordinal"}):
        classifier = made_up.classifier(**attributes)
        written = write(classifier, tmp_path)
        computed = c_sizes.Sizes.from_model(classifier.model).ram_bytes
        # The linker may align each buffer.
        assert computed <= written.sizes["ram_bytes"] <= computed + 400
        code = written.sizes["flash_bytes"] - written.sizes["constant_bytes"]
        assert 2000 < code < 10000


@pytest.mark.parametrize("readout", c.READOUTS)
def test_multiplications_are_those_of_the_model(readout):
    model = made_up.classifier(readout=readout).model
    cost = flops.count(
        lambda inputs: model.apply(made_up_params(model), inputs), model.example_inputs()
    )
    counted = c_sizes.multiply_accumulates(model, kept_tokens(model))
    # The model computes keys and values of the learned query, which the C file folds.
    assert counted == pytest.approx(cost.matmul_flops / 2, rel=0.1)


def made_up_params(model):
    return {"params": made_up.classifier(readout=model.readout).params}


def test_names_can_hold_anything_that_a_comment_cannot(tmp_path):
    classifier = made_up.classifier()
    names = ("*/ int x", "/* é", 'a "b" \\', "d\n??/")
    odd = made_up.Bundle(
        classifier.model,
        classifier.params,
        made_up.DatasetInfo(made_up.MODALITIES, names, made_up.STATISTICS, {"train": 1}),
    )
    path = write(odd, tmp_path).path
    assert c.read(path).info.class_names == names
    assert_same(odd, c.read(path))


def test_inputs_that_are_not_finite_are_refused(tmp_path):
    written = write(made_up.classifier(), tmp_path)
    inputs, masks = made_up.raw_inputs()
    inputs["view"][0, 1, 1] = np.inf
    with pytest.raises(ValueError, match="refuses example 0: a value that is not finite"):
        written.predict(inputs, masks)


def test_compiler_errors_are_reported(tmp_path):
    (tmp_path / "bad.c").write_text("int f(void) { return x; }\n")
    with pytest.raises(c_library.CompilerError, match=r"gcc failed: (.|\n)*undeclared"):
        c_library.compile_c(tmp_path / "bad.c", str(tmp_path / "bad.o"), "-c")
    with pytest.raises(c_library.CompilerError, match="no_such_compiler was not found"):
        c_library.run_tool("no_such_compiler")


@pytest.mark.parametrize("damage", ["int x;", '/*\n Metadata: {"format\n*/', "/* Metadata: {} */"])
def test_other_files_are_refused(damage, tmp_path):
    (tmp_path / "other.c").write_text(damage)
    with pytest.raises(ExportedFileError, match=r"other\.c"):
        c.read(tmp_path / "other.c")


def test_file_of_a_newer_version_is_refused(tmp_path):
    path = write(made_up.classifier(), tmp_path).path
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(ExportedFileError, match="format version 9"):
        c.read(path)


def test_table_of_formats_names_what_is_written():
    takes = export.EXPORTERS["c"].takes
    assert takes["pool"] == tuple(c.POOLS)
    with pytest.raises(ValueError, match="does not take pool=tome"):
        export.write(made_up.classifier(pool="tome"), "model.c", "c")


def test_compiling_twice_is_not_needed(tmp_path, monkeypatch):
    written = write(made_up.classifier(), tmp_path)
    inputs, masks = made_up.raw_inputs()
    first = written.predict(inputs, masks)
    monkeypatch.setattr(subprocess, "run", None)
    np.testing.assert_array_equal(written.predict(inputs, masks), first)
