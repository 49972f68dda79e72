"""Printed commands, and those of the pages on machines, are ones that our programs understand."""

import configparser
import pathlib
import re
import shlex
import sys

import pytest
from absl import flags
from ml_collections import config_flags
from packaging.requirements import Requirement

from sft_jax import command_line, config_io, doctor, launch
from sft_jax.parallel import multihost

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [(ROOT / "docs" / name).read_text() for name in ("scaling.md", "launching.md")]
DOCUMENT = "\n".join(PAGES).replace("\\\n", " ")
BLOCKS = [block.removeprefix("bash").removeprefix("\n") for block in DOCUMENT.split("```")[1::2]]
SLICE = ["--accelerator=v5litepod-16", "--zone=us-west4-a", "--config=configs/watch.py"]


def _commands(*flags_of_launch):
    return dict(launch.commands(launch.parser().parse_args(flags_of_launch)))


def test_values_are_quoted():
    config, workdir = "configs/watch.py:pool=max,k=1", "gs://bucket/a run's"
    override = "--config.data.patch_size={'image': (7, 7)}"
    commands = _commands(*SLICE[:2], f"--config={config}", f"--workdir={workdir}", "--", override)
    for name in ("check", "train, or go on"):
        *gcloud, command = shlex.split(commands[name])
        assert gcloud == [
            *["gcloud", "compute", "tpus", "tpu-vm", "ssh", "sft"],
            SLICE[1],
            "--worker=all",
        ]
        words = shlex.split(command.removeprefix("--command="))
        assert words[:3] == ["cd", "sft_jax", "&&"]
        assert f"--config={config}" in words
        assert f"--workdir={workdir}" in words
        assert override in words
    assert ",gcs]" in shlex.split(shlex.split(commands["install"])[-1])[-1]


def test_the_flags_of_a_slice_reach_gcloud():
    commands = _commands(*SLICE, "--workdir=/nfs/run", "--spot", "--project=mine", "--name=a-1")
    assert shlex.split(commands["create"])[4:] == [
        *("create", "a-1", "--zone=us-west4-a", "--project=mine"),
        *("--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite", "--spot"),
    ]
    assert "gcs]" not in commands["install"]
    for command in commands.values():
        if command.startswith("gcloud"):
            assert {"a-1", "--project=mine"} <= {
                word.split(":")[0] for word in shlex.split(command)
            }


def test_a_slice_may_be_queued():
    commands = _commands(*SLICE, "--workdir=/nfs/run", "--queued", "--spot")
    queue = ["gcloud", "compute", "tpus", "queued-resources"]
    assert shlex.split(commands["request"]) == [
        *(*queue, "create", "sft", "--node-id=sft", "--zone=us-west4-a"),
        *("--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"),
    ]
    assert shlex.split(commands["delete"]) == [
        *(*queue, "delete", "sft", "--zone=us-west4-a", "--force", "--quiet"),
    ]
    assert "create" not in commands


def test_locked_versions_are_those_that_the_package_accepts():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras = parser["options.extras_require"]
    texts = [parser["options"]["install_requires"]]
    texts += [extras[name] for name in ("train", "watch", "gcs", "vggsound", "cuda", "tpu")]
    lines = [line for text in texts for line in text.splitlines() if line and line[0] != "#"]
    locked = dict(line.split("==") for line in (ROOT / "locked.txt").read_text().splitlines())
    for requirement in map(Requirement, lines):
        name = requirement.name.lower().replace("_", "-")
        assert locked[name] in requirement.specifier, name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            "--accelerator=v5e-16",
            "'v5e-16': expected GENERATION-NUMBER, such as v5litepod-16",
        ),
        ("--accelerator=v4", "one of v2, v3, v4, v5litepod, v5p, v6e"),
        ("--name=My_TPU", "expected lower-case letters, digits and hyphens"),
    ],
)
def test_values_that_google_refuses_are_named(capsys, wrong, message):
    with pytest.raises(SystemExit):
        launch.parser().parse_args([*SLICE, "--workdir=gs://b/r", wrong])
    assert message in capsys.readouterr().err


def _arguments(*program):
    """Arguments of a program in the commands of the pages, up to a redirection."""
    arguments = []
    for words in (words for line in "".join(BLOCKS).splitlines() for words in _split(line)):
        for place in range(len(words)):
            if tuple(words[place : place + len(program)]) == program:
                rest = words[place + len(program) :]
                end = next((i for i, word in enumerate(rest) if word in (">>", "&")), len(rest))
                arguments.append(rest[:end])
    return arguments


def _split(line):
    """Yields the words of a line, and of each command that gcloud runs elsewhere."""
    words = shlex.split(line, comments=True)
    yield words
    for word in words:
        if word.startswith("--command="):
            for command in re.split("&&|[{}]", word.removeprefix("--command=")):
                yield shlex.split(command)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # By ml_collections.
def test_the_documented_commands_use_existing_flags(monkeypatch):
    monkeypatch.chdir(ROOT)

    def define_train(values):
        config_flags.DEFINE_config_file("config", flag_values=values)
        for name in ("workdir", "compilation_cache"):  # As of train.py and command_line.run.
            flags.DEFINE_string(name, None, "", flag_values=values)

    for program, define, least in [
        (("train.py",), define_train, 5),
        (("-m", "sft_jax.doctor"), doctor.define_flags, 5),
    ]:
        all_arguments = _arguments(*program)
        assert len(all_arguments) >= least
        for arguments in all_arguments:
            values = flags.FlagValues()
            define(values)
            command_line.define_distributed(values)
            monkeypatch.setattr(
                sys, "argv", ["program", *arguments]
            )  # ml_collections finds overrides here.
            assert values(sys.argv) == ["program"]
            assert values.workdir
            if values.config:
                config_io.from_mapping(values.config)
            multihost.job_from_options(command_line._options(values))


def test_the_document_shows_the_printed_commands(capsys):
    on_slice, on_spot = _arguments("-m", "sft_jax.launch")
    launch.main(on_slice)
    assert capsys.readouterr().out in BLOCKS
    launch.main(on_spot)
    assert "--config.seed=1" in capsys.readouterr().out
