"""Cost of importing the library, and the arrows between its parts."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("sft_jax/**/*.py"), *ROOT.glob("configs/*.py"), *ROOT.glob("*.py")]
)

COMMON = {
    "structs",
    "config",
    "config_types",
    "data_config",
    "config_io",
    "plugins",
    "selection",
    "version",
    "wording",
}
"""Modules at the root of the package that every room may import, unless `PURE` forbids it."""

ROOMS = {
    "ops": set(),
    "modules": {"ops"},
    "interop": {"modules"},
    "data": set(),
    "runs": set(),
    "parallel": {"runs"},
    "training": {"ops", "modules", "runs", "parallel"},
    "evaluation": {"ops", "modules", "data", "runs", "parallel", "training"},
    "export": {"ops", "modules", "data", "runs", "evaluation"},
    "inference": {"ops", "modules", "data", "runs", "evaluation", "export"},
    "profile": {
        "ops", "modules", "data", "runs", "parallel", "training", "evaluation", "command_line"
    },
    "compile": {"data", "runs", "parallel", "training", "profile", "command_line"},
    "compare": {
        "ops", "modules", "data", "runs", "evaluation", "profile", "command_line"
    },
    "page": {"data", "runs", "evaluation", "inference", "profile"},
    "commands": {
        "data", "runs", "parallel", "evaluation", "export", "inference", "page", "profile",
        "experiment", "command_line"
    },
    "sweep": {
        "data", "runs", "parallel", "training", "evaluation", "experiment", "command_line"
    },
}  # fmt: skip
"""Folders of `sft_jax`, and the parts of the package that each may import beside `COMMON`."""

ONLY_IN = {
    "absl": {
        "sft_jax/commands/",
        "sft_jax/compare/__main__.py",
        "sft_jax/compile/__main__.py",
        "sft_jax/profile/__main__.py",
        "sft_jax/sweep/",
        "sft_jax/doctor.py",
        "sft_jax/lr_range.py",
        "sft_jax/command_line.py",
        "sft_jax/data/prepared.py",
    },
    "array_record": {"sft_jax/data/"},
    "configs": {"configs/"},
    "etils": {
        "sft_jax/runs/checkpoint.py",
        "sft_jax/runs/integrity.py",
        "sft_jax/runs/shelf.py",
        "sft_jax/runs/storage.py",
    },
    "flax.nnx": {"sft_jax/nnx.py"},
    "fsspec": {"sft_jax/runs/storage.py"},
    "gcsfs": set(),
    "grain": {"sft_jax/data/", "sft_jax/training/ahead.py"},
    "h5py": {"sft_jax/data/"},
    "matplotlib": {"sft_jax/evaluation/", "sft_jax/profile/tables.py"},
    "huggingface_hub": {"sft_jax/export/hub.py"},
    "ml_collections": {
        "configs/",
        "sft_jax/profile/__main__.py",
        "sft_jax/config_io.py",
        "sft_jax/command_line.py",
        "sft_jax/sweep/",
    },
    "onnx": {"sft_jax/export/onnx/"},
    "onnxruntime": {"sft_jax/export/onnx/"},
    "optax": {"sft_jax/training/"},
    "optax.contrib": set(),
    "orbax": {"sft_jax/runs/checkpoint.py"},
    "pyarrow": {"sft_jax/inference/predictions.py"},
    "pydantic": {
        "sft_jax/config.py",
        "sft_jax/config_types.py",
        "sft_jax/data_config.py",
        "sft_jax/config_io.py",
        "sft_jax/data/registry.py",
        "sft_jax/data/sets/",
    },
    "safetensors": {"sft_jax/export/safetensors.py", "sft_jax/export/safetensors_folder.py"},
    "seglearn": {"sft_jax/data/"},
    "sft_jax.command_line": {
        "sft_jax/commands/",
        "sft_jax/compare/__main__.py",
        "sft_jax/compile/__main__.py",
        "sft_jax/profile/__main__.py",
        "sft_jax/sweep/",
        "sft_jax/doctor.py",
        "sft_jax/lr_range.py",
    },
    "sft_jax.compile": {"sft_jax/compile/", "sft_jax/doctor.py"},
    "sft_jax.doctor": set(),
    "sft_jax.commands": {"train.py", "eval.py", "predict.py", "export.py"},
    "sft_jax.experiment": {"sft_jax/commands/train.py", "sft_jax/sweep/runs.py"},
    "sft_jax.interop": {"sft_jax/interop/"},
    "sft_jax.launch": set(),
    "sft_jax.lr_range": set(),
    "sft_jax.nnx": set(),
    "sft_jax.profile": {
        "sft_jax/compare/",
        "sft_jax/compile/",
        "sft_jax/page/",
        "sft_jax/profile/",
        "sft_jax/commands/evaluate.py",
    },
    "sklearn": {"sft_jax/evaluation/"},
    "tensorflow": set(),
    "tensorflow_datasets": {"sft_jax/data/"},
    "torch": {"sft_jax/interop/torch_weights.py"},
}
"""Packages, and parts of ours, with the only files or folders that may import them."""

_ARRAYS = {"jax", "numpy", "jaxtyping", "chex"}
_OPS = {*_ARRAYS, "flax.struct", "sft_jax.structs", "sft_jax.plugins", "sft_jax.ops"}
_MODULES = {*_OPS, "flax", "sft_jax.modules"}
PURE = {
    "sft_jax/__init__.py": {
        "sft_jax.structs",
        "sft_jax.ops",
        "sft_jax.modules",
        "sft_jax.version",
        "sft_jax.inference",
    },
    "sft_jax/structs.py": {*_ARRAYS, "flax.struct"},
    "sft_jax/config.py": {
        "pydantic",
        "sft_jax.structs",
        "sft_jax.config_types",
        "sft_jax.ops",
        "sft_jax.modules.MODELS",
        "sft_jax.modules.TOKENIZERS",
        "sft_jax.data_config",
        "sft_jax.data.registry",
        "sft_jax.data.sets",
        "sft_jax.objective",
    },
    "sft_jax/config_types.py": {
        "pydantic",
        "sft_jax.plugins",
        "sft_jax.data_config",
        "sft_jax.objective",
        "sft_jax.ops",
    },
    "sft_jax/objective.py": {
        "sft_jax.structs",
        "sft_jax.config",
        "sft_jax.ops",
        "sft_jax.selection",
    },
    "sft_jax/selection.py": {"sft_jax.structs", "sft_jax.plugins", "sft_jax.data.metric_families"},
    "sft_jax/plugins.py": set(),
    "sft_jax/wording.py": set(),
    "sft_jax/data_config.py": {"pydantic", "sft_jax.structs"},
    "sft_jax/ops/": _OPS,
    "sft_jax/modules/factory.py": {*_MODULES, "sft_jax.config"},
    "sft_jax/modules/": _MODULES,
    "sft_jax/nnx.py": _MODULES,
    "sft_jax/interop/": {*_MODULES, "torch", "sft_jax.interop"},
}
"""All imports beside the standard library; the first entry that fits a file counts."""


def _imported(file):
    """Dotted names that a file imports anywhere in it, without the standard library."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}


def _is_within(name, packages):
    return any(name == package or name.startswith(package + ".") for package in packages)


def _violations(file):
    """One line for each import of a file that a rule forbids."""
    names = _imported(file)
    for package, places in ONLY_IN.items():
        if not file.startswith(tuple(places)):
            yield from (f"{file}: {name}" for name in names if _is_within(name, [package]))
    allowed = next((allowed for place, allowed in PURE.items() if file.startswith(place)), None)
    if allowed is not None:
        yield from (f"{file}: {name}" for name in names if not _is_within(name, allowed))
    folders = file.split("/")[:-1]
    if len(folders) > 1:
        room = folders[1]
        parts = {name.split(".")[1] for name in names if name.startswith("sft_jax.")}
        allowed = ROOMS[room] | COMMON | {room}
        yield from (f"{file}: sft_jax.{part}" for part in parts - allowed)


def test_imports_run_one_way():
    assert sorted(violation for file in FILES for violation in _violations(file)) == []


def test_every_file_of_a_rule_exists():
    assert len(FILES) > 30
    places = {place for some in ONLY_IN.values() for place in some}
    for place in {*places, *PURE}:
        assert (ROOT / place).exists(), place


def test_rooms_have_an_order():
    # A room imports only those before it in the table: there is no circle.
    order = list(ROOMS)
    for room, others in ROOMS.items():
        assert all(order.index(other) < order.index(room) for other in others & ROOMS.keys())


@pytest.mark.process
def test_importing_the_library_brings_in_little():
    program = """
import sys
def packages():
    return {name.split(".")[0] for name in sys.modules} - sys.stdlib_module_names
import jax, flax.linen, numpy, jaxtyping, chex
before = packages()
import sft_jax
print(*packages() - before)
print(*packages(), *{"flax.nnx"} & sys.modules.keys())
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    added, imported = (set(line.split()) for line in result.stdout.splitlines())
    assert added == {"sft_jax"}
    assert result.stderr == ""
    heavy = set(ONLY_IN) | {"optax", "tensorboardX"}
    assert imported & heavy <= {"absl", "etils"}  # Chex and Flax bring them.
