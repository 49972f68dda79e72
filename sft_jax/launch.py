"""Prints the commands that create a Cloud TPU, set it up, train on it, and delete it.

python -m sft_jax.launch --name=sft --accelerator=v5litepod-16 --zone=us-west4-a
    --config=configs/vggsound.py --workdir=gs://bucket/run [--spot] [-- --config.seed=1]

No command is run. Flags after `--` are passed to train.py.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence

RUNTIMES: Mapping[str, str] = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
"""Software version for each TPU generation, as Google recommends for JAX."""

_FOLDER = "sft_jax"
_ARCHIVE = "/tmp/sft_jax.tar.gz"
_PYTHON = ".venv/bin/python"
_SLICES = ("gcloud", "compute", "tpus", "tpu-vm")
_QUEUE = ("gcloud", "compute", "tpus", "queued-resources")


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the flags of this command."""
    flags = argparse.ArgumentParser(
        prog="python -m sft_jax.launch", description=(__doc__ or "").partition("\n")[0]
    )
    flags.add_argument("--name", default="sft", type=_named, help="name of the TPU; default sft")
    flags.add_argument("--accelerator", required=True, type=accelerator, help="v5litepod-16")
    flags.add_argument("--zone", required=True, help="us-west4-a")
    flags.add_argument("--project", help="default is gcloud's own")
    flags.add_argument("--config", required=True, help="FILE or FILE:ARG, as of train.py")
    flags.add_argument("--workdir", required=True, help="gs://BUCKET/FOLDER")
    flags.add_argument("--runtime", help="software version; default the accelerator's usual one")
    flags.add_argument("--extras", default="train,tpu", help="extras to install; default train,tpu")
    flags.add_argument(
        "--spot", action="store_true", help="cheaper machines that may be taken away"
    )
    flags.add_argument(
        "--queued",
        action="store_true",
        help="wait in a queue for a slice, rather than fail at once",
    )
    flags.add_argument("--compilation_cache", help="folder or gs://; default each machine's own")
    flags.add_argument("train_flags", nargs="*", metavar="-- FLAG", help="flags of train.py")
    return flags


def accelerator(text: str) -> str:
    """Checks the type of a slice, such as v5litepod-16.

    Raises:
      ArgumentTypeError: If the type is not a known generation and a number.
    """
    generation, _, number = text.partition("-")
    if generation in RUNTIMES and re.fullmatch("[1-9][0-9]*", number):
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r}: expected GENERATION-NUMBER, such as v5litepod-16, with one of"
        f" {', '.join(RUNTIMES)}"
    )


def _named(text: str) -> str:
    if re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", text):
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r}: expected lower-case letters, digits and hyphens, first a letter"
    )


def commands(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Returns the purpose and text of each command, in the order of execution."""
    where = [f"--zone={args.zone}", *([f"--project={args.project}"] if args.project else [])]

    def everywhere(command: str, workers: str = "all") -> str:
        return shlex.join(
            [*_SLICES, "ssh", args.name, *where, f"--worker={workers}", f"--command={command}"]
        )

    extras = args.extras + (",gcs" if "gs://" in args.workdir else "")
    install = [
        f"mkdir -p {_FOLDER}",
        f"tar xzf {_ARCHIVE} -C {_FOLDER}",
        f"cd {_FOLDER}",
        # The machines' own Python may be older than the package needs.
        "python3 -m pip install --user --quiet uv",
        "python3 -m uv venv --allow-existing --python 3.12 .venv",
        "python3 -m uv pip install --python .venv --quiet " + shlex.quote(f".[{extras}]"),
    ]
    run = [f"--config={args.config}", f"--workdir={args.workdir}"]
    overrides = [flag for flag in args.train_flags if flag.startswith("--config.")]
    cache = [f"--compilation_cache={args.compilation_cache}"] if args.compilation_cache else []
    doctor = shlex.join([_PYTHON, "-m", "sft_jax.doctor", *run, *overrides])
    train = shlex.join([_PYTHON, "train.py", *run, *cache, *args.train_flags])
    create, delete = _queued(args, where) if args.queued else _at_once(args, where)
    return [
        *create,
        ("pack what is committed", f"git archive --format=tar.gz --output={_ARCHIVE} HEAD"),
        (
            "copy",
            shlex.join(
                [*_SLICES, "scp", _ARCHIVE, f"{args.name}:{_ARCHIVE}", *where, "--worker=all"]
            ),
        ),
        ("install", everywhere(" && ".join(install))),
        ("check", everywhere(f"cd {_FOLDER} && {doctor}")),
        (
            "train, or go on",
            everywhere(f"cd {_FOLDER} && {{ nohup {train} >> train.log 2>&1 < /dev/null & }}"),
        ),
        ("watch", everywhere(f"tail -n 100 -F {_FOLDER}/train.log", workers="0")),
        ("delete", delete),
    ]


def _at_once(args: argparse.Namespace, where: list[str]) -> tuple[list[tuple[str, str]], str]:
    """Returns the commands that create a slice, which fail without capacity, and delete it."""
    create = shlex.join([*_SLICES, "create", args.name, *where, *_kind(args, "version")])
    delete = shlex.join([*_SLICES, "delete", args.name, *where, "--quiet"])
    return [("create", create)], delete


def _queued(args: argparse.Namespace, where: list[str]) -> tuple[list[tuple[str, str]], str]:
    """Returns the commands that request a slice, show the state of the request, and delete both."""
    request = [f"--node-id={args.name}", *where, *_kind(args, "runtime-version")]
    state = [*where, "--format=value(state.state)"]
    delete = shlex.join([*_QUEUE, "delete", args.name, *where, "--force", "--quiet"])
    return [
        ("request", shlex.join([*_QUEUE, "create", args.name, *request])),
        ("go on once this prints ACTIVE", shlex.join([*_QUEUE, "describe", args.name, *state])),
    ], delete


def _kind(args: argparse.Namespace, version: str) -> list[str]:
    runtime = args.runtime or RUNTIMES[args.accelerator.partition("-")[0]]
    spot = ["--spot"] if args.spot else []
    return [f"--accelerator-type={args.accelerator}", f"--{version}={runtime}", *spot]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the commands, each below a line with its purpose."""
    for purpose, command in commands(parser().parse_args(argv)):
        print(f"# {purpose}\n{command}")


if __name__ == "__main__":
    main()
