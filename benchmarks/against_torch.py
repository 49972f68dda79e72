"""What a step of ours costs beside one of the authors' SFT in PyTorch, on the same cores.

python benchmarks/against_torch.py --json=benchmarks/results/against_torch.json

Needs the extra [torch]. Each side is a process of its own; they live through the run and take
turns, so that what else the machine does falls on both. The paper's settings, without mixup, on
random examples of full length; compiled before anything is measured. Memory is that of one
training step in a fresh process, the first of PyTorch's and of ours after it is compiled.
With more than one thread on a machine that has other work, those of PyTorch spin while they wait
for each other, which counts as CPU time and can be most of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]
os.environ["JAX_PLATFORMS"] = "cpu"  # Of both sides, and of what is said of the machine.

from benchmarks.summaries import environment, write  # noqa: E402

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "exact": {},
    "sparse": {"unimodal_attention": "windowed", "pre_pooling_attention": "windowed"},
    "bfloat16": {"dtype": "bfloat16"},
}
"""What of the config's `model` each of ours changes."""

WORK = ("train", "infer")

_JSON = flags.DEFINE_string("json", None, "Where the result goes.", required=True)
_DATASETS = flags.DEFINE_list("datasets", ["vggsound", "mosei"], "Whose shapes.")
_VARIANTS = flags.DEFINE_list("variants", ["exact"], f"Ours, of {', '.join(VARIANTS)}.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 4, "Where time is measured.", lower_bound=1)
_MEMORY_BATCH_SIZE = flags.DEFINE_integer("memory_batch_size", 24, "And memory.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 1, "Cores, and threads, of each side.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns that each side has.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 3, "Steps of a turn.", lower_bound=1)
_GOLDEN = flags.DEFINE_string("golden", "", "Folder of arrays that PyTorch's side must reproduce.")

flags.register_validator(
    "variants", lambda names: set(names) <= set(VARIANTS), f"must be of {', '.join(VARIANTS)}"
)


class Process:
    """A side in a process of its own; `facts` is what it says of itself."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks/against_torch_side.py"), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.facts = self._answer()

    def ask(self, command: Any) -> dict[str, Any]:
        """Has it carry out a command; see `against_torch_side.py`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side ended with {self._process.wait()}; its error is above")
        return json.loads(line)


def open_side(name: str, dataset: str, batch_size: int) -> contextlib.closing[Process]:
    """Starts `torch`, or ours in the variant of that name."""
    job = {"dataset": dataset, "batch_size": batch_size, "cores": _cores()}
    if name == "torch":
        return contextlib.closing(Process({**job, "side": "torch"}))
    return contextlib.closing(Process({**job, "side": "jax", "overrides": VARIANTS[name]}))


def measure_time(names: list[str], dataset: str, batch_size: int) -> dict[str, Any]:
    """Seconds per step of each side, and PyTorch's over ours, round by round.

    Raises:
      ValueError: if the sides do not have equally many parameters.
    """
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(open_side(name, dataset, batch_size)) for name in names}
        counts = {name: side.facts["parameters"] for name, side in sides.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"{dataset}: the sides differ in their numbers of parameters: {counts}"
            )
        rounds = []
        for i in range(_ROUNDS.value + 1):
            turns = list(sides.items())[:: 1 if i % 2 else -1]  # None is always the first.
            took = {
                name: {work: side.ask({"time": work, "steps": _STEPS.value}) for work in WORK}
                for name, side in turns
            }
            if i:  # The first round compiles, and warms up.
                rounds.append(took)
    return {
        "parameters": counts["torch"],
        "versions": {name: side.facts["version"] for name, side in sides.items()},
        "seconds_per_step": {name: _summarize(rounds, name, _median) for name in names},
        "torch_over_ours": {name: _summarize(rounds, name, _ratio) for name in names[1:]},
        "rounds": rounds,
    }


def measure_memory(names: list[str], dataset: str, batch_size: int) -> dict[str, Any]:
    """MiB that a training step takes on each side, in a process that does nothing else."""
    found = {}
    for name in names:
        with open_side(name, dataset, batch_size) as side:
            found[name] = side.ask("memory")
    ratios = {name: found["torch"]["growth_mib"] / found[name]["growth_mib"] for name in names[1:]}
    return {"of": found, "torch_over_ours": ratios}


def check(folder: str) -> float:
    """How far PyTorch's side is from the authors' logits.

    Raises:
      ValueError: if it is further than rounding explains.
    """
    with open_side("torch", _DATASETS.value[0], 1) as side:
        error = side.ask({"golden": folder})["error"]
    if not error < 1e-10:
        raise ValueError(f"PyTorch's side is {error} from the logits in {folder}")
    return error


def _cores() -> list[int]:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < _THREADS.value:
        raise ValueError(f"--threads={_THREADS.value}, but this process may use cores {allowed}")
    return allowed[: _THREADS.value]


def _summarize(rounds: list[dict[str, Any]], name: str, of: Any) -> dict[str, Any]:
    """By work and clock, what `of` makes of the seconds of PyTorch and of this side."""
    return {
        work: {
            clock: of([(took["torch"][work][clock], took[name][work][clock]) for took in rounds])
            for clock in ("wall", "cpu")
        }
        for work in WORK
    }


def _median(pairs: list[tuple[float, float]]) -> float:
    return statistics.median(own for _, own in pairs)


def _ratio(pairs: list[tuple[float, float]]) -> dict[str, float]:
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
        cells.append(f"{memory['of'][name]['growth_mib']:.0f}")
        ratio = memory["torch_over_ours"].get(name)
        cells.append(f"{ratio:.2f}" if ratio else "")
        yield "| " + " | ".join(cells) + " |"


def main(_: list[str]) -> None:
    """Measures, writes the result and prints a Markdown table."""
    names = ["torch", *_VARIANTS.value]
    result: dict[str, Any] = {
        **environment(),
        "cores": _cores(),
        "steps_of_a_turn": _STEPS.value,
        "batch_size": _BATCH_SIZE.value,
        "memory_batch_size": _MEMORY_BATCH_SIZE.value,
        "memory": "growth of the resident set over the idle process in its first training step;"
        " ours is compiled before",
        "data": {},
    }
    if _GOLDEN.value:
        result["golden_error"] = check(_GOLDEN.value)
    titles = [f"{work}, {what}" for work in WORK for what in ("CPU s", "s", "torch / ours")]
    titles = ["data", "side", *titles, "memory, MiB", "torch / ours"]
    print(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}", flush=True)
    for dataset in _DATASETS.value:
        row = measure_time(names, dataset, _BATCH_SIZE.value)
        row["memory"] = measure_memory(names, dataset, _MEMORY_BATCH_SIZE.value)
        result["data"][dataset] = row
        write(pathlib.Path(_JSON.value), result)
        print(*_rows(dataset, row), sep="\n", flush=True)


if __name__ == "__main__":
    app.run(main)
