"""README and docs: examples run, commands are understood, tables and messages equal the code."""

import ast
import configparser
import dataclasses
import functools
import importlib.util
import math
import pathlib
import re
import sys
import typing

import fake_torch
import numpy as np
import pages
import pytest
import reference
import yaml
from absl import flags

import sft_jax
from sft_jax import command_line, config, config_io
from sft_jax.data import __main__ as data_command
from sft_jax.data import registry
from sft_jax.profile import __main__ as profile

ROOT = pages.ROOT
DOCS = ROOT / "docs"


def _load(path):
    """A Python file as a module, whatever its folder."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_of_docs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generated = _load(DOCS / "generated.py")


# Examples.


def _examples():
    for page in pages.pages():
        blocks = [block for block in pages.blocks(page) if block.language == "python"]
        if any(block.mark != "skip" for block in blocks):
            slow = [pytest.mark.slow] * any(block.mark == "slow" for block in blocks)
            yield pytest.param(page, id=pages.identifier(page), marks=slow)


@pytest.mark.parametrize("page", [*_examples()])
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages.run(page)
    for run in (tmp_path / "runs").glob("*"):
        assert {path.name for path in run.iterdir()} == _listed_files() - {"lock.json"}


def test_recipes_of_kinds_are_short():
    recipes = [
        block.code for block in pages.blocks(DOCS / "kinds.md") if block.language == "python"
    ]
    assert len(recipes) == 12
    assert max(len(code.strip().splitlines()) for code in recipes) <= 15


def _listed_files():
    """The files of a run directory in the table of the quickstart."""
    text = (DOCS / "quickstart.md").read_text()
    listed = re.findall(r"^\| `(.*?)` \|", text[text.index("| file |") :], re.MULTILINE)
    return {name.split("/")[0] for name in listed}


@pytest.mark.slow
def test_checkpoint_example_gives_the_authors_logits(monkeypatch, tmp_path):
    arrays, golden = reference.load("sft_kspad_max")
    slots = {"rgb": "vision", "spec": "audio", "text": "text"}
    model = reference.sft_model(golden)
    names = {
        "model": model.clone(
            modalities={slots[slot]: spec for slot, spec in model.modalities.items()},
            reference_windows={slots[slot]: w for slot, w in model.reference_windows.items()},
        ),
        "inputs": {name: arrays[f"in/{slot}"] for slot, name in slots.items()},
    }
    tensors = reference.under(arrays, "param/").items()
    fake_torch.install(monkeypatch, {name: fake_torch.Tensor(array) for name, array in tensors})
    (tmp_path / "sft.pth").touch()
    monkeypatch.chdir(tmp_path)
    names = pages.run(DOCS / "authors_checkpoints.md", names, skipped=True)
    np.testing.assert_allclose(names["logits"], arrays["f64/logits"], rtol=1e-5, atol=1e-5)


def test_blocks_have_a_known_language():
    """A misspelt language would leave an example out of all tests."""
    for page in pages.pages():
        languages = [block.language for block in pages.blocks(page)]
        assert set(languages) <= set(pages.LANGUAGES), page
        assert page.read_text().count("```") == 2 * len(languages), page


# Commands.


def _check_absl(values, arguments, monkeypatch, *, positional=False):
    monkeypatch.setattr(sys, "argv", ["program", *arguments])  # Read for overrides.
    rest = values(sys.argv)[1:]
    assert bool(rest) == positional
    # The reader's own package can't be imported here.
    if "config" in values and values.config and "my_package" not in "".join(arguments):
        config_io.from_mapping(values.config)


def _check_module(name, arguments, patch):
    """Parses by `parser()` or by the flags of `define_flags(values)` of a module or package."""
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    if hasattr(module, "parser"):
        options = module.parser().parse_args(arguments)
        if module is data_command and arguments[0] in ("list", "prepare") and options.data:
            registry.find_dataset(options.data)
        return
    values = flags.FlagValues()
    module.define_flags(values)
    if name.startswith("sft_jax.commands."):  # Those that `command_line.run` adds.
        flags.DEFINE_string("compilation_cache", None, "", flag_values=values)
        command_line.define_distributed(values)
    _check_absl(values, arguments, patch, positional=hasattr(module, "POSITIONAL"))
    if module is profile:
        profile.models_of(config_io.from_mapping(values.config), values.models)
        profile.batch_sizes(values.batch_sizes)


COMMANDS = {
    **{"train.py": "train", "eval.py": "evaluate", "predict.py": "predict", "export.py": "export"},
    **{
        "sft-train": "train",
        "sft-eval": "evaluate",
        "sft-predict": "predict",
        "sft-export": "export",
    },
}
"""Module of `sft_jax.commands` of each program."""
OURS = {
    *COMMANDS,
    *("sft_jax.compare", "sft_jax.data", "sft_jax.launch", "sft_jax.doctor", "sft_jax.profile"),
    *("sft_jax.compile", "sft_jax.lr_range", "sft_jax.sweep"),
}
"""Programs that the pages must show."""
OTHERS = ("docker", "git", "set", "source", "tensorboard", "uv", "venv")
"""Programs that are not ours."""


@functools.cache
def _extras():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return set(parser["options.extras_require"])


def _check(words, patch):
    """Raises unless a command line is one that its program understands."""
    while "=" in words[0] or words[0] == "srun":
        words = words[1:]
    program, *arguments = words
    program = pathlib.PurePath(program).name
    if program in ("python", "python3"):
        program, *arguments = arguments[arguments[0] == "-m" :]
    if program == "pip":
        for extra in re.findall(r"^\.\[(.*)\]$", "\n".join(arguments), re.MULTILINE):
            assert set(extra.split(",")) <= _extras(), f"setup.cfg lacks an extra of {extra}"
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets), f"the Makefile lacks a target of {arguments}"
    elif program == "benchmarks/accelerator.py":
        _check_module("benchmarks.accelerator_sections", arguments, patch)
    elif program in COMMANDS:
        _check_module(f"sft_jax.commands.{COMMANDS[program]}", arguments, patch)
    elif program not in OTHERS:
        _check_module(program, arguments, patch)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # By ml_collections.
def test_commands_are_understood(monkeypatch):
    monkeypatch.chdir(ROOT)
    checked, problems = set(), []
    for page in pages.pages():
        for words in pages.commands(page):
            try:
                _check(words, monkeypatch)
            except (Exception, SystemExit) as error:
                problems.append(f"{pages.identifier(page)}: {' '.join(words)}: {error!r}")
            checked |= set(words)
    assert not problems, "\n".join(problems)
    assert checked >= OURS


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_manifests_train_on_every_machine_of_a_slice(monkeypatch):
    monkeypatch.chdir(ROOT)
    texts = [b.code for page in pages.pages() for b in pages.blocks(page) if b.language == "yaml"]
    documents = [document for text in texts for document in yaml.safe_load_all(text)]
    jobs = [document["spec"] for document in documents if document.get("kind") == "Job"]
    assert jobs
    for job in jobs:
        pod = job["template"]["spec"]
        (container,) = pod["containers"]
        chips = math.prod(
            map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
        )
        machines = chips // container["resources"]["limits"]["google.com/tpu"]
        assert job["completions"] == job["parallelism"] == machines
        _check(["python", "train.py", *container["args"]], monkeypatch)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(
    "words",
    [
        ["python", "train.py", "--config=configs/watch.py", "--workdir=w", "--config.model.kk=1"],
        ["python", "train.py", "--config=configs/watch.py", "--workdir=w", "--config.model.k=-1"],
        ["python", "eval.py", "--workdir=w", "--splits=test"],
        ["python", "-m", "sft_jax.data", "prepare", "moseii"],
        ["python", "-m", "sft_jax.profile", "--config=configs/watch.py", "--model=sft"],
        ["python", "-m", "sft_jax.profile", "--config=configs/watch.py", "--models=sfd"],
        ["python", "-m", "benchmarks.study", "--set=watches", "--json=a.json"],
        [".venv/bin/pip", "install", ".[trian]"],
        ["make", "trian"],
        ["pythom", "train.py"],
    ],
    ids=" ".join,
)
def test_wrong_commands_are_noticed(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((Exception, SystemExit)):
        _check(words, monkeypatch)


# Tables, links and messages.


def _names(sources):
    """The keys or choices of each `MODULE:ATTRIBUTE` among words; others are names themselves."""
    for source in sources.split():
        module, colon, attribute = source.partition(":")
        value = getattr(importlib.import_module(module), attribute) if colon else [source]
        yield from typing.get_args(value) or value


def test_tables_have_every_name_of_the_code():
    tables = [table for page in pages.pages() for table in pages.tables_of_names(page)]
    assert tables
    for sources, listed in tables:
        assert sorted(listed) == sorted(_names(sources)), sources


def test_config_reference_has_every_field():
    reference_text = generated.config() + generated.data()
    for name, section in generated.sections():
        assert f"\n## {name}\n" in reference_text
        for field in section.__dataclass_fields__:
            assert f"| `{name}.{field}` |" in reference_text
    for field in ("seed", "seeds"):
        assert f"| `{field}` | " in reference_text
    assert "| `optim.lr` | number above 0 | `0.001` | " in reference_text
    assert (
        "| `seeds` | tuple of integer at least 0 and below 2,147,483,648 | empty |"
        in reference_text
    )


def test_a_field_without_description_is_an_error():
    @dataclasses.dataclass(frozen=True)
    class Longer(config.TrainConfig):
        """Training with one more field."""

        stamina: int = 3

    with pytest.raises(ValueError, match="docstring of Longer lacks stamina"):
        generated.descriptions(Longer)


def test_generated_parts_are_known():
    for page in pages.pages():
        assert "<!-- generated" not in generated.on_page_markdown(page.read_text())


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(page):
    """The build of the pages checks those of docs/."""
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text())
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_api_reference_has_every_public_name():
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    documented = set(re.findall(r"^::: sft_jax\.(\w+)$", text, re.MULTILINE))
    assert documented == {name for name in sft_jax.__all__ if name != "__version__"}


def _texts():
    """The texts of the package's code; a value in one is a zero character."""
    for path in (ROOT / "sft_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "\0" for p in node.values)
                yield "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_error_index_quotes_messages_of_the_code():
    lines = re.findall(r"^\| `(.*?)` \|", (DOCS / "faq.md").read_text(), re.MULTILINE)
    parts = [part.strip() for line in lines for part in line.split("…") if part.strip()]
    texts = "\n".join(_texts())
    assert parts
    assert [part for part in parts if part not in texts] == []


def test_pictures_are_drawn(tmp_path):
    drawing = _load(DOCS / "draw_pictures.py")
    drawing.draw(tmp_path)
    drawn = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    names = {path.name for path in (DOCS / "images").iterdir()}
    # tests/test_results.py tests those of the study.
    study = {name for name in names if name.startswith(("frontier", "robustness", "kept"))}
    assert set(drawn) == names - study
    assert all(size > 10_000 for size in drawn.values())
