"""Checks that devices, processes and the run directory are ready to train, with advice if not."""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import os
import pathlib
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sft_jax import config_io, version
from sft_jax.config import ExperimentConfig
from sft_jax.parallel import multihost
from sft_jax.parallel.timeout import within
from sft_jax.runs import storage

MIN_FREE_GB = 2.0
"""Free space below which a warning is given; a checkpoint of a small model takes megabytes."""

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Finding:
    """Result of a check.

    Attributes:
      check: Name of the check.
      found: State of the checked item.
      problem: Problem and advice; empty if there is none.
      stops: Whether the problem stops training.
    """

    check: str
    found: str
    problem: str = ""
    stops: bool = True


def cheap(workdir: str | os.PathLike[str], config: ExperimentConfig) -> list[Finding]:
    """Runs the quick checks: devices, equal processes, run directory, free space.

    Every process of a job must call it. The run directory is made unless it exists. Running on the
    CPU of a machine with an accelerator is not a reason to stop.
    """
    findings = [dataclasses.replace(check_devices(), stops=False)]
    if jax.process_count() > 1:
        findings.append(check_equal(facts(config)))
    return [*findings, check_workdir(workdir), check_free_space(workdir)]


def require(findings: Sequence[Finding]) -> None:
    """Warns of the problems that do not stop training.

    Raises:
      ValueError: If other problems exist; the message lists them all.
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
    """Runs all checks, each within a time limit.

    Every process of a job must call it.

    Args:
      workdir: Run directory; made unless it exists.
      config: Config that all processes should have.
      timeout: Time limit of each check in seconds.
      min_free_gb: Free space below which to warn, in 1e9 bytes.

    Returns:
      The findings, and whether all processes can compute together. If they can't, some of the
      checks are skipped.
    """
    findings = [_limited("devices", timeout, check_devices)]
    if not findings[-1].found:
        return findings, False
    findings.append(_limited("collective", timeout, check_collective))
    together = not findings[-1].problem
    if together:
        own = facts(config)
        for name, check in {
            "hosts": check_hosts,
            "versions": lambda: check_equal(own),
            "workdir": lambda: check_workdir(workdir),
        }.items():
            if together:
                findings.append(_limited(name, timeout, check))
                together = bool(findings[-1].found)
    findings.append(_limited("free space", timeout, lambda: check_free_space(workdir, min_free_gb)))
    return findings, together


def check_devices() -> Finding:
    """Lists JAX's devices; reports a problem if they are CPUs and an accelerator seems to exist."""
    counts = collections.Counter(f"{d.platform} ({d.device_kind})" for d in jax.devices())
    listed = ", ".join(f"{number} x {kind}" for kind, number in counts.items())
    problem = ""
    wants_cpu = jax.config.jax_platforms == "cpu"  # type: ignore[attr-defined]
    if jax.default_backend() == "cpu" and not wants_cpu and (accelerator := _accelerator()):
        problem = (
            f"JAX uses the CPU alone, but there is {accelerator}. Install '.[train,cuda]' or"
            " '.[train,tpu]' and check that the driver works and no other program holds the"
            " device; or set JAX_PLATFORMS=cpu if the CPU is meant"
        )
    return Finding("devices", listed, problem)


def _accelerator() -> str:
    """Returns a file that indicates an accelerator on this machine; empty without one."""
    files = [*multihost.tpu_devices(), pathlib.Path("/dev/nvidia0"), pathlib.Path("/dev/kfd")]
    if existing := next((str(file) for file in files if file.exists()), None):
        return existing
    return shutil.which("nvidia-smi") or ""


def check_collective() -> Finding:
    """Compiles a sum over all devices of all processes, and computes it."""
    start, number = time.perf_counter(), jax.device_count()
    mesh = jax.make_mesh((number,), ("all",), (AxisType.Auto,), devices=jax.devices())
    numbers = jax.make_array_from_callback(
        (number,),
        NamedSharding(mesh, PartitionSpec("all")),
        lambda index: np.arange(1, number + 1, dtype=np.int32)[index],
    )
    add = jax.jit(lambda array: array.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))
    total, expected = int(add(numbers)), number * (number + 1) // 2
    done = f"compiled, and a sum over {number} devices, in {time.perf_counter() - start:.1f} s"
    wrong = f"the sum over {number} devices is {total}, not {expected}: a device or link is broken"
    return Finding("collective", done, wrong if total != expected else "")


def check_hosts() -> Finding:
    """Gathers the host name of every process."""
    names = multihost.gather(socket.gethostname())
    hosts = ", ".join(f"{name} ({number})" for name, number in collections.Counter(names).items())
    return Finding("hosts", f"{len(names)} of {jax.process_count()} processes: {hosts}")


def facts(config: ExperimentConfig | None = None) -> dict[str, Any]:
    """Returns facts that should be equal in all processes: versions, devices and config."""
    return {
        **version.environment()["versions"],
        "devices": f"{jax.local_device_count()} {jax.local_devices()[0].device_kind}",
        "config": config and config_io.to_json(config),
    }


def check_equal(own: Mapping[str, Any]) -> Finding:
    """Compares `facts` of all processes; the problem names processes that differ from most."""
    text = json.dumps([socket.gethostname(), dict(own)])
    answers = [json.loads(answer) for answer in multihost.gather(text)]
    versions = ("python", "jax", "sft_jax")
    listed = ", ".join(f"{name} {own[name]}" for name in versions if name in own)
    problems = []
    for key in own:
        values = [json.dumps(theirs[key], sort_keys=True) for _, theirs in answers]
        most = collections.Counter(values).most_common(1)[0][0]
        for process, (host, _) in enumerate(answers):
            if values[process] != most:
                problems.append(
                    f"process {process} ({host}): {_difference(key, most, values[process])}"
                )
    advice = "; install and start the same everywhere" if problems else ""
    return Finding("versions", listed, "; ".join(problems) + advice)


def _difference(key: str, most: str, other: str) -> str:
    usual, here = json.loads(most), json.loads(other)
    if key == "config":
        if not (usual and here):
            return "has a --config, others none" if here else "no --config, others have one"
        two = config_io.from_mapping(usual), config_io.from_mapping(here)
        return "config " + ", ".join(config_io.differences(*two))
    return f"{key} {here}, others {usual}"


def check_workdir(workdir: str | os.PathLike[str]) -> Finding:
    """Writes a small file from every process, reads it in all others, and removes it."""
    token, failed = uuid.uuid4().hex, ""
    try:
        root = storage.as_path(workdir)
        probe = root / _probe(jax.process_index(), token)
        root.mkdir(parents=True, exist_ok=True)
        probe.write_text(token)
    except Exception as error:  # A bucket's client raises errors of many kinds.
        failed = _reason(error)
    answers = _gather_json([token, failed, socket.gethostname()])
    unwritten = {_who(i, host): failed for i, (_, failed, host) in enumerate(answers) if failed}
    unseen = _gather_json([] if unwritten else _unseen(root, answers))
    if not failed:
        probe.unlink(missing_ok=True)
    problem = "; ".join(
        [f"can't write to workdir {workdir}{who}: {why}" for who, why in unwritten.items()]
        + [
            f"what {', '.join(others)} wrote to workdir {workdir} is not seen"
            f"{_who(i, answers[i][2])}"
            for i, others in enumerate(unseen)
            if others
        ]
    )
    if any(unseen):
        problem += ". It must be one folder for all: a network file system, or gs://"
    done = "looked at" if problem else "written and read"
    return Finding("workdir", f"{workdir}: {done} from {len(answers)} process(es)", problem)


def _gather_json(values: Any) -> list[Any]:
    return [json.loads(text) for text in multihost.gather(json.dumps(values))]


def _probe(process: int, token: str) -> str:
    """Returns a file name unique to this start; the lock detects a concurrent start."""
    return f".probe_{process}_{token[:8]}"


def _who(process: int, host: str) -> str:
    return f" from process {process} ({host})" if jax.process_count() > 1 else ""


def _unseen(root: storage.AnyPath, answers: Sequence[Sequence[str]]) -> list[str]:
    """Lists the processes whose files are missing or differ from what was written, and why."""
    others = []
    for process, (token, _, host) in enumerate(answers):
        try:
            if (root / _probe(process, token)).read_text() != token:
                others.append(f"process {process} ({host}; another text)")
        except Exception as error:  # A bucket's client raises errors of many kinds.
            others.append(f"process {process} ({host}; {_reason(error)})")
    return others


def check_free_space(workdir: str | os.PathLike[str], min_free_gb: float = MIN_FREE_GB) -> Finding:
    """Measures the free space of a local run directory; little space does not stop training."""
    if storage.in_bucket(workdir):
        return Finding("free space", "not limited by a disk")
    path = pathlib.Path(workdir).absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    problem = (
        f"{free:.1f} GB are free for {workdir}, less than {min_free_gb:g}: make room, lower"
        " train.keep_latest, or give another --workdir"
    )
    return Finding("free space", f"{free:.1f} GB", problem * (free < min_free_gb), stops=False)


def _limited(check: str, seconds: float, function: Callable[[], Finding]) -> Finding:
    """Runs a check; any error or timeout becomes its problem."""
    try:
        return within(seconds, function)
    except Exception as error:
        return Finding(check, "", _reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{error}" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
