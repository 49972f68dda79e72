"""Serialised programs: the same outputs for any batch, in a process without Flax."""

import json
import subprocess
import sys
import zipfile

import flax.linen as nn
import jaxtyping
import numpy as np
import pytest
import tiny_exports

from sft_jax import (
    BlockSparsePattern,
    ModalitySpec,
    ReferenceWindows,
    Tokens,
    WindowPattern,
    export,
)
from sft_jax.export import stablehlo
from sft_jax.export.written import ExportedFileError


class Embed(nn.Module):
    """Tokenizer of a user."""

    @nn.compact
    def __call__(self, values, mask):
        return Tokens(nn.Dense(5)(values), mask)


LONG = {"sound": ModalitySpec(200, 2)}
SHORT = {"sound": ModalitySpec(9, 2)}
ALONE = {
    "windowed": {"modalities": LONG, "unimodal_pattern": WindowPattern()},
    "block_sparse": {"modalities": LONG, "pre_pooling_pattern": BlockSparsePattern()},
    "module": {"modalities": SHORT, "tokenizers": {"sound": Embed()}},
    "bfloat16": {"dtype": "bfloat16"},
    "authors": {
        "modalities": SHORT,
        "pool": "max",
        "reference_windows": {"sound": ReferenceWindows(3, 3)},
        "reference_fusion_layer": 2,
    },
}


@pytest.fixture(autouse=True)
def _sizes_unknown():
    """Shape checks know no symbolic sizes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def classifier():
    return tiny_exports.classifier()


@pytest.fixture(scope="module")
def file(classifier, tmp_path_factory):
    jaxtyping.config.update("jaxtyping_disable", True)
    path = tmp_path_factory.mktemp("stablehlo") / "a.stablehlo"
    return export.write(classifier, path, "stablehlo").path


def test_any_batch_gives_the_outputs_of_the_model(classifier, file):
    written = export.read(file, "stablehlo")
    values, masks = tiny_exports.raw_inputs()
    expected = tiny_exports.expected(classifier, values, masks)
    for count in (1, tiny_exports.BATCH):
        some = [{name: array[:count] for name, array in part.items()} for part in (values, masks)]
        np.testing.assert_allclose(written.predict(*some), expected[:count], atol=1e-6)
    assert written.metadata["k"] == {"sight": 3, "sound": 3}
    with pytest.raises(ValueError, match="which is fixed"):
        written.predict(values, masks, k=1)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALONE)
def test_models_that_no_other_format_takes_are_exported(case, tmp_path):
    classifier = tiny_exports.classifier(**ALONE[case])
    assert export.supported(classifier, "onnx")
    values, masks = tiny_exports.raw_inputs(classifier.info.modalities)
    outputs = export.write(classifier, tmp_path / "a.stablehlo", "stablehlo").predict(values, masks)
    expected = tiny_exports.expected(classifier, values, masks)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


@pytest.mark.process
def test_it_runs_without_flax_and_this_library(classifier, file, tmp_path):
    values, masks = tiny_exports.raw_inputs()
    flat = values | {f"{name}_mask": mask for name, mask in masks.items()}
    np.savez(tmp_path / "in.npz", **flat)
    program = """
import sys, zipfile
import jax, jax.export, numpy as np
arrays = np.load("in.npz")
with zipfile.ZipFile(sys.argv[1]) as file:
    program = jax.export.deserialize(bytearray(file.read("program")))
names = [name for name in arrays.files if not name.endswith("_mask")]
inputs = {name: arrays[name] for name in names}
masks = {name: arrays[name + "_mask"] for name in names}
np.save("out.npy", program.call(inputs, masks))
assert not {"flax", "sft_jax"} & set(sys.modules)
print(*program.platforms)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == ["cpu", "cuda", "tpu"]
    expected = tiny_exports.expected(classifier, values, masks)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)


def test_text_has_the_arguments_of_other_compilers(classifier):
    text = stablehlo.text(classifier, batch_size=2, k=1)
    assert "stablehlo.dot_general" in text
    for argument in ("tensor<2x5x4x2xf32>", "tensor<2x7x2xf32>", "tensor<2x5x4xi1>"):
        assert argument in text


def test_a_file_of_another_version_or_kind_is_refused(file, tmp_path):
    with zipfile.ZipFile(file) as archive:
        program, metadata = archive.read("program"), json.loads(archive.read("metadata.json"))
    older = metadata | {"format_version": 0}
    for number, (content, described, message) in enumerate(
        (
            (program, older, r"format version 0, written by sft_jax .* reads"),
            (
                program[: len(program) // 2],
                metadata,
                "its program is damaged, or this JAX can't read",
            ),
        )
    ):
        with zipfile.ZipFile(tmp_path / str(number), "w") as changed:
            changed.writestr("program", content)
            changed.writestr("metadata.json", json.dumps(described))
        with pytest.raises(ExportedFileError, match=message):
            export.read(tmp_path / str(number), "stablehlo")
    (tmp_path / "c").write_text("no archive")
    with pytest.raises(ExportedFileError, match="is not a file of --format=stablehlo"):
        export.read(tmp_path / "c", "stablehlo")
