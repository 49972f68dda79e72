"""Cost of a step of ours beside one of the authors' SFT in PyTorch, on the same cores.

python -m benchmarks.against_torch --json=benchmarks/results/against_torch.json

Needs the extra [torch]. Each side is a process of its own. All live through the run and take
turns, so that other work of the machine falls on all. The settings are the paper's, without mixup,
on random examples of full length; both sides are compiled before anything is measured. Memory is
that of one training step in a fresh process: the first of PyTorch's, and the first of ours after
compilation. With more than one thread on a machine with other work, PyTorch's threads spin while
they wait for each other. That counts as CPU time and can be most of it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from benchmarks import harness
from benchmarks.suites import SUITES
from sft_jax.profile.isolated import IsolatedFunction

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "exact": {},
    "sparse": {"unimodal_attention": "windowed", "pre_pooling_attention": "windowed"},
    "bfloat16": {"dtype": "bfloat16"},
}
"""Changed fields of the config's `model` by variant of ours."""

WORK = ("train", "infer")

DATASETS = ("vggsound", "mosei")

Pairs = list[tuple[float, float]]
"""Seconds of PyTorch and of another side, round by round."""


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    arguments = harness.parser(__doc__, only=DATASETS)
    arguments.add_argument(
        "--variants",
        type=harness.names,
        default=["exact"],
        help=f"comma-separated, of {', '.join(VARIANTS)}; default exact",
    )
    arguments.add_argument("--batch_size", type=int, default=4, help="batch size of timed steps")
    arguments.add_argument(
        "--memory_batch_size", type=int, default=24, help="batch size where memory is measured"
    )
    arguments.add_argument("--threads", type=int, default=1, help="cores and threads of a side")
    arguments.add_argument("--rounds", type=int, default=5, help="turns that each side has")
    arguments.add_argument("--steps", type=int, default=3, help="steps of a turn")
    arguments.add_argument(
        "--golden", default="", help="folder of golden arrays that PyTorch's side must reproduce"
    )
    return arguments


@contextlib.contextmanager
def open_side(
    name: str, dataset: str, batch_size: int, cores: list[int]
) -> Iterator[tuple[IsolatedFunction, dict[str, Any]]]:
    """Starts a side; yields it with its facts.

    Args:
      name: `torch`, or one of `VARIANTS`.
      dataset: Name of the dataset whose shapes are used.
      batch_size: Number of examples of a step.
      cores: Cores that the side runs on.
    """
    job: dict[str, Any] = {"dataset": dataset, "batch_size": batch_size, "cores": cores}
    job |= {"side": "torch"} if name == "torch" else {"side": "jax", "overrides": VARIANTS[name]}
    with IsolatedFunction(
        "benchmarks.against_torch_side:Process", environment={"JAX_PLATFORMS": "cpu"}
    ) as side:
        yield side, side({"start": job})


def measure_time(names: list[str], dataset: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measures the seconds per step of each side, and PyTorch's over ours, round by round.

    Raises:
      ValueError: If the sides have different numbers of parameters.
    """
    with contextlib.ExitStack() as stack:
        sides, facts = {}, {}
        for name in names:
            sides[name], facts[name] = stack.enter_context(
                open_side(name, dataset, options.batch_size, _cores(options.threads))
            )
        counts = {name: facts[name]["parameters"] for name in names}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"{dataset}: the sides differ in their numbers of parameters: {counts}"
            )
        rounds = []
        for number in range(options.rounds + 1):
            # No side is always the first.
            turns = list(sides.items())[:: 1 if number % 2 else -1]
            seconds = {
                name: {work: side({"time": work, "steps": options.steps}) for work in WORK}
                for name, side in turns
            }
            if number:  # The first round compiles and warms up.
                rounds.append(seconds)
    return {
        "parameters": counts["torch"],
        "versions": {name: facts[name]["version"] for name in names},
        "seconds_per_step": {name: _summarize(rounds, name, _median) for name in names},
        "torch_over_ours": {name: _summarize(rounds, name, _ratio) for name in names[1:]},
        "rounds": rounds,
    }


def measure_memory(names: list[str], dataset: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measures the MiB of a training step of each side, in a process that does nothing else."""
    sides = {}
    for name in names:
        with open_side(name, dataset, options.memory_batch_size, _cores(options.threads)) as (
            side,
            _,
        ):
            sides[name] = side({"memory": True})
    ratios = {name: sides["torch"]["growth_mib"] / sides[name]["growth_mib"] for name in names[1:]}
    return {"sides": sides, "torch_over_ours": ratios}


def check(folder: str, cores: list[int]) -> float:
    """Compares PyTorch's side with the authors' logits; returns the largest difference.

    Raises:
      ValueError: If the difference is larger than rounding explains.
    """
    with open_side("torch", DATASETS[0], 1, cores) as (side, _):
        error = side({"golden": folder})["error"]
    if not error < 1e-10:
        raise ValueError(f"PyTorch's side is {error} from the logits in {folder}")
    return error


def _cores(threads: int) -> list[int]:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < threads:
        raise ValueError(f"--threads={threads}, but this process may use cores {allowed}")
    return allowed[:threads]


def _summarize(
    rounds: list[dict[str, Any]], name: str, statistic: Callable[[Pairs], Any]
) -> dict[str, Any]:
    """A statistic of the seconds of PyTorch and of one side, by work and clock."""
    return {
        work: {
            clock: statistic([(r["torch"][work][clock], r[name][work][clock]) for r in rounds])
            for clock in ("wall", "cpu")
        }
        for work in WORK
    }


def _median(pairs: Pairs) -> float:
    return statistics.median(own for _, own in pairs)


def _ratio(pairs: Pairs) -> dict[str, float]:
    ratios = [torch / own for torch, own in pairs]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def _rows(dataset: str, result: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a Markdown table; the ratios of a step are of CPU seconds."""
    memory = result["memory"]
    for name, seconds in result["seconds_per_step"].items():
        cells = [dataset, name]
        for work in WORK:
            ratio = result["torch_over_ours"].get(name, {}).get(work)
            cells += [f"{seconds[work][clock]:.3f}" for clock in ("cpu", "wall")]
            cells.append(
                "{median:.2f} ({min:.2f} to {max:.2f})".format(**ratio["cpu"]) if ratio else ""
            )
        cells.append(f"{memory['sides'][name]['growth_mib']:.0f}")
        ratio = memory["torch_over_ours"].get(name)
        cells.append(f"{ratio:.2f}" if ratio else "")
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measures, writes the result and prints a Markdown table."""
    options = parser().parse_args()
    if unknown := sorted(set(options.variants) - set(VARIANTS)):
        parser().error(f"--variants: unknown {unknown}, known: {', '.join(VARIANTS)}")
    jax.config.update("jax_platforms", "cpu")
    names, cores = ["torch", *options.variants], _cores(options.threads)
    result: dict[str, Any] = {
        **harness.environment(SUITES["against_torch"].scope),
        "cores": cores,
        "steps_of_a_turn": options.steps,
        "batch_size": options.batch_size,
        "memory_batch_size": options.memory_batch_size,
        "memory": "growth of the resident set over the idle process in its first training step;"
        " ours is compiled before",
        "data": {},
    }
    if options.golden:
        result["golden_error"] = check(options.golden, cores)
    titles = [f"{work}, {column}" for work in WORK for column in ("CPU s", "s", "torch / ours")]
    titles = ["data", "side", *titles, "memory, MiB", "torch / ours"]
    print(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}", flush=True)
    for dataset in options.only or DATASETS:
        row = measure_time(names, dataset, options)
        row["memory"] = measure_memory(names, dataset, options)
        result["data"][dataset] = row
        harness.write(options.json, result)
        print(*_rows(dataset, row), sep="\n", flush=True)


if __name__ == "__main__":
    main()
