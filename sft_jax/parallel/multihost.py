"""Connection of several processes to one computation, by flags or the environment."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
import pathlib
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from sft_jax.parallel.rendezvous import Job, meet

_logger = logging.getLogger(__name__)

INIT_TIMEOUT = 300
HEARTBEAT_TIMEOUT = 100

_TPU_PORT = 8482
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
_METADATA_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags about the processes of a job.

    Attributes:
      coordinator: HOST:PORT of process 0; if empty the environment decides.
      num_processes: Number of processes.
      process_id: Number of this process, from 0.
      init_timeout: Seconds to wait until all processes have connected.
      heartbeat_timeout: Seconds without a heartbeat after which a process counts as dead. The
        other processes then end.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    init_timeout: int = INIT_TIMEOUT
    heartbeat_timeout: int = HEARTBEAT_TIMEOUT


def initialize(options: Options) -> Job | None:
    """Connects the processes of a job; returns None and does nothing for a single process.

    Call it before any call that initialises JAX's devices.

    Args:
      options: Flags. Set all or none of the coordinator, the number of processes and this
        process's number. By default the environment decides: a TPU slice of several machines
        (Cloud TPU VMs ask their metadata server), or several tasks of SLURM's `srun`.

    Raises:
      ValueError: If only some of these options are set, or one is out of range.
      MissingProcessError: If a process did not connect in time; the message names the missing
        processes.
      OSError: If the metadata server of a TPU machine does not answer.
    """
    job = job_from_options(options) or job_from_environment(os.environ)
    if job is None and _wants_tpu(os.environ) and _on_tpu_vm(os.environ):
        job = job_from_environment({**_tpu_metadata(), **os.environ})
    if job is None or job.num_processes == 1:
        return None
    meet(job, options.init_timeout)
    jax.distributed.initialize(
        job.coordinator,
        job.num_processes,
        job.process_id,
        # Under SLURM, JAX assigns to each task the GPU of its local rank.
        cluster_detection_method=None if job.source == "SLURM" else "deactivate",
        initialization_timeout=options.init_timeout,
        heartbeat_timeout_seconds=options.heartbeat_timeout,
    )
    _logger.info("process %d of %d (by %s)", job.process_id, job.num_processes, job.source)
    return job


def leave(message: str) -> NoReturn:
    """Ends one of several processes after an error, without waiting for the others.

    An ordinary exit would wait for minutes until all processes end. The others keep waiting for
    this process until they miss its heartbeat.
    """
    print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def gather(text: str) -> list[str]:
    """Gathers the texts of all processes in process order; every process must call it."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.asarray(len(own))))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(own)] = own
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [bytes(row[:n]).decode() for row, n in zip(rows, lengths, strict=True)]


def job_from_options(options: Options) -> Job | None:
    """Makes the job that the flags describe; None without flags.

    Raises:
      ValueError: If a flag is missing or out of range.
    """
    values = {
        "--coordinator": options.coordinator or None,
        "--num_processes": options.num_processes,
        "--process_id": options.process_id,
    }
    if missing := [name for name, value in values.items() if value is None]:
        if len(missing) == len(values):
            return None
        raise ValueError(f"{', '.join(values)} go together: {', '.join(missing)} missing")
    # The assertions narrow the types for mypy.
    assert options.coordinator
    assert options.num_processes is not None
    assert options.process_id is not None
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:/\s]+):\d{1,5}", options.coordinator):
        raise ValueError(f"--coordinator={options.coordinator}: expected HOST:PORT of process 0")
    if not 0 <= options.process_id < options.num_processes:
        raise ValueError(
            f"--process_id={options.process_id}: expected 0 to {options.num_processes - 1}, as"
            f" --num_processes={options.num_processes}"
        )
    return Job(options.coordinator, options.num_processes, options.process_id, "flags")


def job_from_environment(environ: Mapping[str, str]) -> Job | None:
    """Makes the job that environment variables describe; None for a single process.

    Two sources are read:
    - a TPU slice (`TPU_WORKER_HOSTNAMES`, `TPU_WORKER_ID`), or several slices
      (`MEGASCALE_COORDINATOR_ADDRESS`, `MEGASCALE_NUM_SLICES`, `MEGASCALE_SLICE_ID`), unless
      `JAX_PLATFORMS` excludes TPUs;
    - a step of SLURM, started by `srun`.
    """
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES") or ""
    if hosts and _wants_tpu(environ):
        workers = hosts.split(",")
        slices = int(environ.get("MEGASCALE_NUM_SLICES") or 1)
        if len(workers) * slices > 1:
            first = environ.get("MEGASCALE_COORDINATOR_ADDRESS") or workers[0]
            port = environ.get("JAX_COORDINATOR_PORT") or _TPU_PORT
            before = int(environ.get("MEGASCALE_SLICE_ID") or 0) * len(workers)
            process = before + int(environ.get("TPU_WORKER_ID") or 0)
            return Job(f"{first.split(':')[0]}:{port}", len(workers) * slices, process, "TPU")
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS") or 1)
    if "SLURM_JOB_ID" in environ and tasks > 1:
        # The job id makes it unlikely that two jobs on one machine share a port.
        port = environ.get("JAX_COORDINATOR_PORT") or 61440 + int(environ["SLURM_JOB_ID"]) % 4096
        host = _first_host(environ["SLURM_STEP_NODELIST"])
        return Job(f"{host}:{port}", tasks, int(environ["SLURM_PROCID"]), "SLURM")
    return None


def _first_host(nodes: str) -> str:
    """Returns the first host of SLURM's list of hosts, such as `a[01-03,7],b`."""
    match = re.match(r"([^,\[]*)(?:\[(\w+)[^\]]*\]([^,\[]*))?", nodes)
    assert match  # The pattern also matches an empty string.
    return "".join(part or "" for part in match.groups())


def _wants_tpu(environ: Mapping[str, str]) -> bool:
    platforms = environ.get("JAX_PLATFORMS", "")
    return not platforms or "tpu" in platforms.split(",")


def _on_tpu_vm(environ: Mapping[str, str]) -> bool:
    """Returns whether this machine has TPU chips and its metadata server may be queried."""
    if "TPU_SKIP_MDS_QUERY" in environ or not importlib.util.find_spec("libtpu"):
        return False
    return any(tpu_devices())


def tpu_devices() -> list[pathlib.Path]:
    """Lists the device files of this machine's TPU chips or other accelerators."""
    dev = pathlib.Path("/dev")
    return [*sorted(dev.glob("accel[0-9]*")), *sorted(dev.glob("vfio/[0-9]*"))]


def _tpu_metadata() -> dict[str, str]:
    """Reads the slice of a Cloud TPU VM from its metadata server, as environment variables."""
    endpoints = _attribute("worker-network-endpoints")
    if endpoints is None:
        return {}
    # Each endpoint is an address, or NAME:ID:ADDRESS.
    workers = [endpoint.split(":")[-1] for endpoint in endpoints.split(",")]
    slices = re.findall(
        r"^\s*(MEGASCALE_\w+)\s*:\s*'?([^'\n]*)", _attribute("tpu-env") or "", re.MULTILINE
    )
    return {
        **dict(slices),
        "TPU_WORKER_HOSTNAMES": ",".join(workers),
        "TPU_WORKER_ID": _attribute("agent-worker-number") or "0",
    }


def _attribute(name: str) -> str | None:
    request = urllib.request.Request(_METADATA + name, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=_METADATA_SECONDS) as answer:
            text: str = answer.read().decode()
            return text.strip()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise OSError(f"the metadata server of this TPU machine says {error} on {name}") from error
    except OSError as error:
        raise OSError(
            f"the metadata server of this TPU machine is not reached: {error}. Set"
            " TPU_SKIP_MDS_QUERY=1 if it is not one of Google Cloud"
        ) from error
