"""One C file computes what the model computes, without a library, and says what it costs."""

import dataclasses
import re
import shutil
import subprocess

import numpy as np
import pytest
import tiny_exports

from sft_jax.export import c
from sft_jax.export.c import library
from sft_jax.export.written import ExportedFileError, with_k

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]

TOLERANCE = 1e-5


def write(classifier, folder, **options):
    return c.write(classifier, folder / "model.c", **options)


def some_inputs():
    """Examples, without the last, which has no input at all."""
    inputs, masks = tiny_exports.raw_inputs()
    return [{name: array[:-1] for name, array in part.items()} for part in (inputs, masks)]


def assert_same(classifier, written, k=None):
    inputs, masks = some_inputs()
    wanted = tiny_exports.expected(with_k(classifier, k), inputs, masks)
    np.testing.assert_allclose(
        written.predict(inputs, masks, k), wanted, atol=TOLERANCE, rtol=TOLERANCE
    )


@pytest.mark.parametrize("pool", c.POOLS)
def test_every_pool_is_that_of_the_model(pool, tmp_path):
    classifier = tiny_exports.classifier(pool=pool)
    assert_same(classifier, write(classifier, tmp_path))


def test_the_attention_of_cls_is_that_of_the_model(tmp_path):
    classifier = tiny_exports.classifier(pool="evit", saliency="from_cls")
    assert_same(classifier, write(classifier, tmp_path))


@pytest.mark.parametrize("readout", c.READOUTS)
def test_every_readout_is_that_of_the_model(readout, tmp_path):
    classifier = tiny_exports.classifier(readout=readout)
    assert_same(classifier, write(classifier, tmp_path))


@pytest.mark.parametrize("task", c.HEADS)
def test_every_head_is_that_of_the_model(task, tmp_path):
    classifier = tiny_exports.classifier(task=task)
    assert_same(classifier, write(classifier, tmp_path))


def test_blocks_are_applied_in_their_order(tmp_path):
    classifier = tiny_exports.classifier(n_pre=2, n_post=4, mlp_ratio=2)
    assert_same(classifier, write(classifier, tmp_path))


def test_models_without_blocks_are_written(tmp_path):
    classifier = tiny_exports.classifier(n_pre=0, n_post=0, readout="mean")
    assert_same(classifier, write(classifier, tmp_path))


@pytest.mark.parametrize("k", [0, 1, 4, {"sight": 6, "sound": 2}])
def test_any_k_is_chosen_at_run_time(k, tmp_path):
    classifier = tiny_exports.classifier()
    assert_same(classifier, write(classifier, tmp_path), k)


def test_default_k_is_that_of_the_call(tmp_path):
    classifier = tiny_exports.classifier()
    inputs, masks = some_inputs()
    written = write(classifier, tmp_path, k=1)
    np.testing.assert_array_equal(
        written.predict(inputs, masks), written.predict(inputs, masks, k=1)
    )


def test_absent_modality_and_short_input_need_no_mask(tmp_path):
    written = write(tiny_exports.classifier(), tmp_path)
    inputs, masks = some_inputs()
    part = {"sight": inputs["sight"][:1, :3], "sound": None}
    masks["sound"][0] = False
    masks["sight"][0, 3:] = False
    np.testing.assert_array_equal(written.predict(part), written.predict(inputs, masks)[:1])
    null = library.Library(written.path, ["sight", "sound"], 4).run(
        {"sight": inputs["sight"][:1]}, {"sight": masks["sight"][:1]}
    )
    np.testing.assert_array_equal(null, written.predict(part))


def test_weights_of_8_bits_round_each_output_by_its_own_scale(tmp_path):
    classifier = tiny_exports.classifier()
    written = write(classifier, tmp_path, quantize="int8")
    inputs, masks = some_inputs()
    wanted = tiny_exports.expected(classifier, inputs, masks)
    difference = np.abs(written.predict(inputs, masks) - wanted).max()
    assert TOLERANCE < difference < 0.1
    exact = write(classifier, tmp_path)
    assert written.sizes["constant_bytes"] < 0.6 * exact.sizes["constant_bytes"]


def test_flags_tell_the_tokens_of_largest_saliency(tmp_path):
    classifier = tiny_exports.classifier(k=2)
    path = write(classifier, tmp_path).path
    inputs, masks = some_inputs()
    kept = np.full((tiny_exports.BATCH - 1, 6 + 4), 7, np.uint8)
    library.Library(path, ["sight", "sound"], 4).run(inputs, masks, kept=kept)
    assert set(kept.ravel()) == {0, 1}
    counts = np.stack([kept[:, :6].sum(axis=1), kept[:, 6:].sum(axis=1)], axis=1)
    assert counts.tolist() == [[2, 2], [2, 2], [1, 1], [0, 2], [2, 0]]
    # One position of this example is real: the last of the first two in the sound.
    assert kept[2, 6:].tolist() == [0, 1, 0, 0]


def test_file_calls_no_function_of_a_library(tmp_path):
    path = write(tiny_exports.with_summary(pool="none"), tmp_path).path
    for level in ("-O0", "-O3", "-Os"):
        library.compile_c(path, str(tmp_path / "model.o"), "-c", level)
        assert library.run_tool("nm", "-u", str(tmp_path / "model.o")) == ""


def test_declarations_are_there_without_the_code(tmp_path):
    path = write(tiny_exports.classifier(), tmp_path).path
    main = tmp_path / "main.c"
    main.write_text(f'#define SFT_DECLARATIONS\n#include "{path.name}"\nint x = SFT_INPUT_sound;\n')
    library.compile_c(main, str(tmp_path / "main.o"), "-c")
    names = library.run_tool("nm", str(tmp_path / "main.o"))
    assert re.findall(r"\w+$", names, re.MULTILINE) == ["x"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_declarations_are_those_of_c_in_a_program_in_cpp(tmp_path):
    path = write(tiny_exports.classifier(), tmp_path).path
    (tmp_path / "main.cpp").write_text(f"""#define SFT_DECLARATIONS
#include "{path.name}"
int main()
{{
    static float samples[7][2];
    sft_input inputs[SFT_MODALITIES] = {{{{0}}}};
    float probabilities[SFT_OUTPUTS];
    inputs[SFT_INPUT_sound].values = &samples[0][0];
    return sft_predict(inputs, 0, probabilities, 0) == SFT_OK ? 0 : 1;
}}
""")
    library.compile_c(path, str(tmp_path / "model.o"), "-c")
    files = [str(tmp_path / name) for name in ("main.cpp", "model.o", "main")]
    library.run_tool("g++", "-Wall", "-Werror", "-pedantic", *files[:2], "-o", files[2])
    library.run_tool(files[2])


def test_ending_of_a_file_does_not_matter_to_the_compiler(tmp_path):
    path = write(tiny_exports.classifier(), tmp_path).path
    other = path.rename(tmp_path / "model.onnx")
    assert library.code_sizes(other)["flash_bytes"] > 0
    assert_same(tiny_exports.classifier(), c.read(other))


def test_sizes_are_those_of_the_compiled_file(tmp_path):
    others = {"pool": "max", "readout": "attention", "task": "ordinal"}
    made = [tiny_exports.classifier(**own) for own in ({}, others, {"pool": "attn_wkmedoids"})]
    for classifier in (*made, tiny_exports.with_summary(1000)):
        written = write(classifier, tmp_path)
        _, own = c.source(classifier, c.describe(classifier, "c"))
        computed = own["ram_bytes"]
        # The linker may align each buffer.
        assert computed <= written.sizes["ram_bytes"] <= computed + 400
        code = written.sizes["flash_bytes"] - written.sizes["constant_bytes"]
        assert 2000 < code < 10000


def test_names_can_hold_anything_that_a_comment_cannot(tmp_path):
    classifier = tiny_exports.classifier()
    names = ("*/ int x", "/* é", 'a "b" \\', "d\n??/")
    info = dataclasses.replace(classifier.info, class_names=names)
    odd = dataclasses.replace(classifier, info=info)
    path = write(odd, tmp_path).path
    assert c.read(path).info.class_names == names
    assert_same(odd, c.read(path))


def test_derived_inputs_are_named():
    classifier = tiny_exports.with_summary()
    text, _ = c.source(classifier, c.describe(classifier, "c"))
    assert "   Input touch_summary is computed from touch by summary, unless it is given\n" in text
    info = dataclasses.replace(classifier.info, derived={"touch_summary": "other:f:touch"})
    other = dataclasses.replace(classifier, info=info)
    text, _ = c.source(other, c.describe(other, "c"))
    assert "   Input touch_summary is computed from touch by other:f, and must be given\n" in text
    assert "summarise" not in text


def test_inputs_that_are_not_finite_are_refused(tmp_path):
    written = write(tiny_exports.classifier(), tmp_path)
    inputs, masks = some_inputs()
    inputs["sight"][0, 1, 1, 0] = np.inf
    with pytest.raises(ValueError, match="refuses example 0: a value that is not finite"):
        written.predict(inputs, masks)


def test_examples_without_any_input_are_refused(tmp_path):
    written = write(tiny_exports.classifier(), tmp_path)
    with pytest.raises(ValueError, match="refuses example 5: no input, every modality is absent"):
        written.predict(*tiny_exports.raw_inputs())


def test_compiler_errors_are_reported(tmp_path):
    (tmp_path / "bad.c").write_text("int f(void) { return x; }\n")
    with pytest.raises(library.CompilerError, match=r"gcc failed: (.|\n)*undeclared"):
        library.compile_c(tmp_path / "bad.c", str(tmp_path / "bad.o"), "-c")
    with pytest.raises(library.CompilerError, match="no_such_compiler was not found"):
        library.run_tool("no_such_compiler")


def test_file_of_a_newer_version_is_refused(tmp_path):
    path = write(tiny_exports.classifier(), tmp_path).path
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(ExportedFileError, match="format version 9"):
        c.read(path)


def test_compiling_twice_is_not_needed(tmp_path, monkeypatch):
    written = write(tiny_exports.classifier(), tmp_path)
    inputs, masks = some_inputs()
    first = written.predict(inputs, masks)
    monkeypatch.setattr(subprocess, "run", None)
    np.testing.assert_array_equal(written.predict(inputs, masks), first)
