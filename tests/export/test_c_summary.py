"""The C file computes the summary of a series that the caller does not give."""

import ctypes
import dataclasses
import shutil

import numpy as np
import pytest
import tiny_exports

from sft_jax.data.derived import summary
from sft_jax.export import c, command, comparison
from sft_jax.export.c import library
from sft_jax.export.opened import random_dataset

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]

LENGTH = 1500
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
PROBE = """
int probe(const sft_input *inputs, float *row)
{
    const sft_input *own = find_input(inputs, SFT_INPUT_touch_summary);
    int i;
    for (i = 0; own->values && i < 24; i++)
        row[i] = own->values[i];
    return own->values != 0;
}
"""


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """Function from `[steps, 2]` values and a mask to what the file computes; None for nothing."""
    folder = tmp_path_factory.mktemp("summary")
    path = c.write(tiny_exports.with_summary(LENGTH), folder / "model.c").path
    path.write_text(path.read_text() + PROBE)
    library.compile_c(path, str(folder / "model.so"), "-O2", "-shared", "-fPIC")
    probe = ctypes.CDLL(str(folder / "model.so")).probe

    def run(values, mask=None):
        values, row = np.ascontiguousarray(values, np.float32), np.zeros(24, np.float32)
        inputs = (library.Input * 2)()
        inputs[0].values = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        inputs[0].length = len(values)
        if mask is not None:
            inputs[0].mask = mask.ctypes.data_as(ctypes.POINTER(ctypes.c_ubyte))
        found = probe(inputs, row.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
        return row if found else None

    return run


def series(length):
    """A slow wave, small noise beside a large offset, as float32."""
    random = np.random.default_rng(length)
    wave = np.sin(np.linspace(0, 9, length)) + 0.01 * random.normal(size=length)
    return np.stack([wave, 100 + random.normal(size=length)], axis=1).astype(np.float32)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 64, 127, 200, 1500])
def test_statistics_are_those_of_numpy(length, computed):
    values = series(length)
    np.testing.assert_allclose(computed(values), summary(values.astype("f8")), **CLOSE)


@pytest.mark.parametrize("values", [np.full((9, 2), 7.3), series(99) * 1e30, series(99) * 1e-30])
def test_constants_and_all_scales_are_taken(values, computed):
    values = values.astype("f4")
    np.testing.assert_allclose(computed(values), summary(values.astype("f8")), rtol=1e-4)


def test_padding_is_left_out(computed):
    values, mask = series(200), np.random.default_rng(0).random(200) < 0.7
    values[~mask] = np.nan
    wanted = summary(values[mask].astype("f8"))
    np.testing.assert_allclose(computed(values, mask), wanted, **CLOSE)
    assert computed(values, np.zeros(200, bool)) is None


def test_files_compute_what_is_not_given(tmp_path):
    classifier = tiny_exports.with_summary()
    written = c.read(c.write(classifier, tmp_path / "model.c").path)
    assert written.metadata["computed"] == ["touch_summary"]
    inputs, masks = tiny_exports.raw_inputs({"touch": classifier.info.modalities["touch"]})
    inputs, masks = inputs["touch"][:3], {"touch": masks["touch"][:3]}
    pairs = zip(inputs.astype("f8"), masks["touch"], strict=True)
    rows = np.stack([summary(values[mask])[None] for values, mask in pairs])
    found = written.predict({"touch": inputs}, masks)
    given = {"touch": inputs, "touch_summary": rows}
    np.testing.assert_allclose(written.predict(given, masks), found, atol=1e-4)
    others = written.predict(given | {"touch_summary": rows + 1}, masks)
    assert np.abs(others - found).max() > 1e-3
    # A mask of zeros leaves it out.
    masks["touch_summary"] = np.zeros((3, 1), bool)
    wanted = tiny_exports.expected(classifier, given, masks)
    np.testing.assert_allclose(written.predict(given, masks), wanted, atol=1e-5)
    assert np.abs(wanted - found).max() > 1e-3


def test_a_missing_or_faulty_source_computes_nothing(tmp_path):
    written = c.write(tiny_exports.with_summary(), tmp_path / "model.c")
    values, masks = np.full((2, 8, 2), 1000.0), np.ones((2, 8), bool)
    masks[1] = False
    with pytest.raises(ValueError, match="refuses example 1: no input"):
        written.predict({"touch": values}, {"touch": masks})
    row = written.predict({"touch_summary": np.ones((2, 1, 24))})  # The source is null.
    given = {"touch_summary": np.ones((2, 1, 24)), "touch": values}
    none = {"touch": np.zeros((2, 8), bool)}
    np.testing.assert_array_equal(row, written.predict(given, none))
    values[1, 5] = np.inf
    with pytest.raises(ValueError, match="refuses example 1: a value that is not finite"):
        written.predict({"touch": values})


def test_comparison_gives_the_source_alone(tmp_path):
    classifier = tiny_exports.with_summary(20)
    written = c.write(classifier, tmp_path / "model.c")
    calls = []

    def run(inputs, masks, k):
        calls.append([*inputs])
        return written.run(inputs, masks, k)

    data = random_dataset(classifier.info, 5)
    found = comparison.compare(classifier, dataclasses.replace(written, run=run), data)
    assert calls == [["touch"]] + 4 * [["touch", "touch_summary"]]
    assert found["largest_difference"] < command.LIMIT
