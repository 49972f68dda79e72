"""Whether devices, processes and the run directory are fit to train, and what to do if not."""

from __future__ import annotations

import collections
import dataclasses
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import queue
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sft_jax import config_io
from sft_jax.config import ExperimentConfig
from sft_jax.parallel import multihost
from sft_jax.runs import storage
from sft_jax.version import __version__

T = TypeVar("T")

MIN_FREE_GB = 2.0
"""Less than this is worth a warning; a checkpoint of a small model takes megabytes."""

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check came to.

    Attributes:
      check: its name.
      found: what there is.
      problem: what is wrong and what to do about it; empty if nothing is.
      stops: whether there is no going on with that problem.
    """

    check: str
    found: str
    problem: str = ""
    stops: bool = True


def cheap(workdir: str | os.PathLike[str], config: ExperimentConfig) -> list[Finding]:
    """What takes no time: devices, equal processes, run directory, free space.

    Every process of a job calls this. The run directory is made if it is not there. Only a CPU
    where there seems to be an accelerator is no reason to stop.
    """
    findings = [dataclasses.replace(devices(), stops=False)]
    if jax.process_count() > 1:
        findings.append(equal(facts(config)))
    return [*findings, shared_workdir(workdir), free_space(workdir)]


def require(findings: Sequence[Finding]) -> None:
    """Warns of the problems that one can live with.

    Raises:
      ValueError: naming all others.
    """
    problems = [finding for finding in findings if finding.problem]
    for finding in problems:
        if not finding.stops:
            _logger.warning("%s: %s", finding.check, finding.problem)
    if stopping := [finding.problem for finding in problems if finding.stops]:
        raise ValueError("\n".join(stopping))


def thorough(
    workdir: str | os.PathLike[str],
    config: ExperimentConfig | None = None,
    *,
    timeout: float = 60.0,
    min_free_gb: float = MIN_FREE_GB,
) -> tuple[list[Finding], bool]:
    """All checks, each within a time limit.

    Every process of a job calls this.

    Args:
      workdir: run directory; made if it is not there.
      config: to be the same in all processes.
      timeout: in seconds, of each check.
      min_free_gb: free space below which to warn, in 1e9 bytes.

    Returns:
      What was found, and whether all processes compute together, without which only some of the
      checks are done.
    """
    findings = [_limited("devices", timeout, devices)]
    if not findings[-1].found:
        return findings, False
    findings.append(_limited("collective", timeout, collective))
    together = not findings[-1].problem
    if together:
        of_process = facts(config)
        for name, check in {
            "hosts": hosts,
            "versions": lambda: equal(of_process),
            "workdir": lambda: shared_workdir(workdir),
        }.items():
            if together:
                findings.append(_limited(name, timeout, check))
                together = bool(findings[-1].found)
    findings.append(_limited("free space", timeout, lambda: free_space(workdir, min_free_gb)))
    return findings, together


def devices() -> Finding:
    """Finds JAX's devices; a problem if there are only CPUs beside what seems an accelerator."""
    counts = collections.Counter(f"{d.platform} ({d.device_kind})" for d in jax.devices())
    found = ", ".join(f"{number} x {kind}" for kind, number in counts.items())
    problem = ""
    cpu_is_meant = jax.config.jax_platforms == "cpu"  # type: ignore[attr-defined]
    if jax.default_backend() == "cpu" and not cpu_is_meant and (seen := _seen()):
        problem = (
            f"JAX uses the CPU alone, but there is {seen}. Install '.[train,cuda]' or"
            " '.[train,tpu]' and see whether the driver works and no other program holds the"
            " device; or set JAX_PLATFORMS=cpu if the CPU is meant"
        )
    return Finding("devices", found, problem)


def _seen() -> str:
    """What looks as if the machine had an accelerator."""
    files = [*multihost.tpu_devices(), pathlib.Path("/dev/nvidia0"), pathlib.Path("/dev/kfd")]
    if found := next((str(file) for file in files if file.exists()), None):
        return found
    return shutil.which("nvidia-smi") or ""


def collective() -> Finding:
    """Compiles a sum over all devices of all processes, and computes it."""
    start, number = time.perf_counter(), jax.device_count()
    mesh = jax.make_mesh((number,), ("all",), (AxisType.Auto,), devices=jax.devices())
    each = jax.make_array_from_callback(
        (number,),
        NamedSharding(mesh, PartitionSpec("all")),
        lambda index: np.arange(1, number + 1, dtype=np.int32)[index],
    )
    add = jax.jit(lambda array: array.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))
    total, expected = int(add(each)), number * (number + 1) // 2
    found = f"compiled, and a sum over {number} devices, in {time.perf_counter() - start:.1f} s"
    wrong = f"the sum over {number} devices is {total}, not {expected}: a device or link is broken"
    return Finding("collective", found, wrong if total != expected else "")


def gather(text: str) -> list[str]:
    """The texts that all processes give, in their order; each of them calls this."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.asarray(len(own))))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(own)] = own
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [bytes(row[:n]).decode() for row, n in zip(rows, lengths, strict=True)]


def hosts() -> Finding:
    """Hears of every process on which machine it is."""
    names = gather(socket.gethostname())
    each = ", ".join(f"{name} ({number})" for name, number in collections.Counter(names).items())
    return Finding("hosts", f"{len(names)} of {jax.process_count()} processes: {each}")


def facts(config: ExperimentConfig | None = None) -> dict[str, Any]:
    """What has to be the same in all processes."""
    return {
        "python": platform.python_version(),
        "sft_jax": __version__,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": f"{jax.local_device_count()} {jax.local_devices()[0].device_kind}",
        "config": config and config_io.to_json(config),
    }


def equal(own: Mapping[str, Any]) -> Finding:
    """Compares `facts` of all processes; the problem names who differs from most in what."""
    said = [json.loads(text) for text in gather(json.dumps([socket.gethostname(), dict(own)]))]
    found = ", ".join(f"{name} {own[name]}" for name in ("python", "jax", "sft_jax") if name in own)
    problems = []
    for key in own:
        values = [json.dumps(of[key], sort_keys=True) for _, of in said]
        most = collections.Counter(values).most_common(1)[0][0]
        for process, (host, _) in enumerate(said):
            if values[process] != most:
                problems.append(
                    f"process {process} ({host}): {_difference(key, most, values[process])}"
                )
    advice = "; install and start the same everywhere" if problems else ""
    return Finding("versions", found, "; ".join(problems) + advice)


def _difference(key: str, most: str, other: str) -> str:
    usual, here = json.loads(most), json.loads(other)
    if key == "config":
        if not (usual and here):
            return "has a --config, others none" if here else "no --config, others have one"
        two = config_io.from_mapping(usual), config_io.from_mapping(here)
        return "config " + ", ".join(config_io.differences(*two))
    return f"{key} {here}, others {usual}"


def shared_workdir(workdir: str | os.PathLike[str]) -> Finding:
    """Writes a small file from every process, which all others read; then they are removed."""
    token, failed = uuid.uuid4().hex, ""
    try:
        root = storage.as_path(workdir)
        probe = root / _probe(jax.process_index(), token)
        root.mkdir(parents=True, exist_ok=True)
        probe.write_text(token)
    except Exception as error:  # What a bucket's client raises is of many kinds.
        failed = _reason(error)
    said = [json.loads(t) for t in gather(json.dumps([token, failed, socket.gethostname()]))]
    unwritten = {_who(i, host): failed for i, (_, failed, host) in enumerate(said) if failed}
    unseen = [] if unwritten else _unseen(root, said)
    of_all = [json.loads(text) for text in gather(json.dumps(unseen))]
    if not failed:
        probe.unlink(missing_ok=True)
    problem = "; ".join(
        [f"can't write to workdir {workdir}{who}: {why}" for who, why in unwritten.items()]
        + [
            f"what {', '.join(others)} wrote to workdir {workdir} is not seen{_who(i, said[i][2])}"
            for i, others in enumerate(of_all)
            if others
        ]
    )
    if any(of_all):
        problem += ". It must be one folder for all: a network file system, or gs://"
    done = "looked at" if problem else "written and read"
    return Finding("workdir", f"{workdir}: {done} from {len(said)} process(es)", problem)


def _probe(process: int, token: str) -> str:
    """A file of this start alone: another at the same moment is told of by the lock."""
    return f".probe_{process}_{token[:8]}"


def _who(process: int, host: str) -> str:
    return f" from process {process} ({host})" if jax.process_count() > 1 else ""


def _unseen(root: storage.AnyPath, said: Sequence[Sequence[str]]) -> list[str]:
    """The processes whose files are not there, or not as they were written, and why."""
    others = []
    for process, (token, _, host) in enumerate(said):
        try:
            if (root / _probe(process, token)).read_text() != token:
                others.append(f"process {process} ({host}; another text)")
        except Exception as error:  # As above.
            others.append(f"process {process} ({host}; {_reason(error)})")
    return others


def free_space(workdir: str | os.PathLike[str], min_free_gb: float = MIN_FREE_GB) -> Finding:
    """Looks at the disk of a local run directory; having little is no reason to stop."""
    if storage.in_bucket(workdir):
        return Finding("free space", "not limited by a disk")
    path = pathlib.Path(workdir).absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    problem = (
        f"{free:.1f} GB are free for {workdir}, less than {min_free_gb:g}: make room, lower"
        " train.keep_latest, or give another --workdir"
    )
    return Finding("free space", f"{free:.1f} GB", problem * (free < min_free_gb), stops=False)


def _limited(check: str, seconds: float, function: Callable[[], Finding]) -> Finding:
    """Does a check; any error, or no answer in time, is its problem."""
    try:
        return within(seconds, function)
    except Exception as error:
        return Finding(check, "", _reason(error))


def within(seconds: float, function: Callable[[], T]) -> T:
    """Calls a function, and does not wait for it any longer than given.

    Raises:
      TimeoutError: if it has not returned by then; it goes on in a thread of its own.
    """
    answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            answers.put((function(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(
            f"no answer within {seconds:g} s. Does another program hold the devices? Do all"
            " processes run, and reach each other at any port?"
        ) from None
    if error:
        raise error
    return value  # type: ignore[return-value]


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{error}" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
