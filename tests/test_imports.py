"""What importing the library costs, and which part may import which."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("sft_jax/**/*.py"), *ROOT.glob("configs/*.py"), *ROOT.glob("*.py")]
)

# Packages, and parts of ours, that only some files may import.
ONLY_IN = {
    "orbax": ["sft_jax/runs/checkpoint.py"],
    "etils": [
        "sft_jax/runs/checkpoint.py",
        "sft_jax/runs/integrity.py",
        "sft_jax/runs/shelf.py",
        "sft_jax/runs/storage.py",
    ],
    "fsspec": ["sft_jax/runs/storage.py"],
    "gcsfs": [],
    "grain": ["sft_jax/data/"],
    "tensorflow_datasets": ["sft_jax/data/"],
    "array_record": ["sft_jax/data/"],
    "seglearn": ["sft_jax/data/"],
    "h5py": ["sft_jax/data/"],
    "absl": [
        "train.py",
        "eval.py",
        "sft_jax/profile/__main__.py",
        "sft_jax/doctor.py",
        "sft_jax/command_line.py",
        "sft_jax/data/prepared.py",
    ],
    "ml_collections": [
        "train.py",
        "configs/",
        "sft_jax/profile/__main__.py",
        "sft_jax/doctor.py",
        "sft_jax/config_io.py",
        "sft_jax/command_line.py",
    ],
    "pydantic": [
        "sft_jax/config.py",
        "sft_jax/data_config.py",
        "sft_jax/config_io.py",
        "sft_jax/data/registry.py",
        "sft_jax/data/sets/",
    ],
    "sklearn": ["sft_jax/evaluation/"],
    "matplotlib": ["sft_jax/evaluation/", "sft_jax/profile/tables.py"],
    "torch": ["sft_jax/interop/torch_weights.py"],
    "sft_jax.evaluation": [
        "sft_jax/experiment.py",
        "sft_jax/evaluation/",
        "sft_jax/profile/",
        "train.py",
        "eval.py",
    ],
    "sft_jax.data": [
        "configs/",
        "sft_jax/config.py",
        "sft_jax/config_io.py",
        "sft_jax/experiment.py",
        "sft_jax/profile/",
        "sft_jax/data/",
        "sft_jax/evaluation/",
        "train.py",
        "eval.py",
    ],
    "sft_jax.runs": [
        "sft_jax/experiment.py",
        "sft_jax/runs/",
        "sft_jax/parallel/preflight.py",
        "sft_jax/training/",
        "sft_jax/evaluation/",
        "sft_jax/profile/",
        "train.py",
        "eval.py",
    ],
    "sft_jax.parallel": [
        "sft_jax/command_line.py",
        "sft_jax/doctor.py",
        "sft_jax/experiment.py",
        "sft_jax/parallel/",
        "sft_jax/training/",
        "sft_jax/evaluation/",
        "sft_jax/profile/",
        "train.py",
    ],
    "sft_jax.training": [
        "sft_jax/experiment.py",
        "sft_jax/training/",
        "sft_jax/evaluation/",
        "sft_jax/profile/",
    ],
    "sft_jax.interop": ["sft_jax/interop/"],
    "sft_jax.command_line": [
        "train.py",
        "eval.py",
        "sft_jax/profile/__main__.py",
        "sft_jax/doctor.py",
    ],
    "sft_jax.profile": ["sft_jax/profile/"],
    "sft_jax.doctor": [],
    "sft_jax.launch": [],
    "sft_jax.experiment": ["train.py"],
    "configs": ["configs/"],
    "tensorflow": [],
    "optax.contrib": [],
}

# All that some files may import, beside the standard library.
ARRAYS = ["jax", "numpy", "jaxtyping", "chex"]
OPS = [*ARRAYS, "flax.struct", "sft_jax.structs", "sft_jax.plugins", "sft_jax.ops"]
MODULES = [*OPS, "flax", "sft_jax.modules"]
NOTHING_BUT = {
    "sft_jax/__init__.py": ["sft_jax.structs", "sft_jax.ops", "sft_jax.modules", "sft_jax.version"],
    "sft_jax/structs.py": [*ARRAYS, "flax.struct"],
    "sft_jax/config.py": [
        "pydantic",
        "sft_jax.structs",
        "sft_jax.plugins",
        "sft_jax.ops",
        "sft_jax.modules.MODELS",
        "sft_jax.data_config",
        "sft_jax.data.registry",
        "sft_jax.data.sets",
    ],
    "sft_jax/plugins.py": [],
    "sft_jax/data_config.py": ["pydantic", "sft_jax.structs"],
    "sft_jax/ops/": OPS,
    "sft_jax/modules/factory.py": [*MODULES, "sft_jax.config"],
    "sft_jax/modules/": MODULES,
    "sft_jax/interop/": [*MODULES, "torch", "sft_jax.interop"],
}


def _imported(file):
    """The dotted names that a file imports, wherever in it, but for the standard library."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}


def _within(name, packages):
    return any(name == package or name.startswith(package + ".") for package in packages)


def _violations(file):
    names = _imported(file)
    for package, places in ONLY_IN.items():
        if not file.startswith(tuple(places)):
            yield from (f"{file}: {name}" for name in names if _within(name, [package]))
    allowed = next(
        (allowed for place, allowed in NOTHING_BUT.items() if file.startswith(place)), None
    )
    if allowed is not None:
        yield from (f"{file}: {name}" for name in names if not _within(name, allowed))


def test_imports_run_one_way():
    assert sorted(violation for file in FILES for violation in _violations(file)) == []


def test_the_rules_are_about_files_that_exist():
    assert len(FILES) > 30
    for place in NOTHING_BUT:
        assert (ROOT / place).exists()


def test_importing_the_library_brings_in_little():
    program = """
import sys
def packages():
    return {name.split(".")[0] for name in sys.modules} - sys.stdlib_module_names
import jax, flax.linen, numpy, jaxtyping, chex
before = packages()
import sft_jax
print(*packages() - before)
print(*packages())
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
