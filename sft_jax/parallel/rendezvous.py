"""Rendezvous of the processes of a job, with an error that names missing processes.

If a process is missing, JAX's own client ends the others with a stack trace and names none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import selectors
import socket
import time
from typing import cast

RETRY_SECONDS = 0.2
MARGIN_SECONDS = 5.0
"""Extra time that the others wait for the coordinator, which knows the missing processes."""


class MissingProcessError(OSError):
    """Error for a job whose processes are missing or contradict each other."""


@dataclasses.dataclass(frozen=True)
class Job:
    """Processes that compute together, as seen by one of them.

    Attributes:
      coordinator: HOST:PORT where process 0 listens.
      num_processes: Number of processes.
      process_id: Number of this process, from 0.
      source: Source of the other fields: flags, TPU or SLURM.
    """

    coordinator: str
    num_processes: int
    process_id: int
    source: str

    @property
    def address(self) -> tuple[str, int]:
        """Returns the host and port of the coordinator."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def meet(job: Job, timeout: float) -> None:
    """Returns in each process of a job as soon as all have connected.

    The port of the coordinator is free again afterwards.

    Args:
      job: Job that this process is part of.
      timeout: Time limit in seconds.

    Raises:
      MissingProcessError: In every connected process; the message names the missing ones.
    """
    if job.process_id == 0:
        _receive(job, timeout)
    else:
        _announce(job, timeout)


def _receive(job: Job, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    present: dict[int, socket.socket] = {}
    hosts = {0: socket.gethostname()}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(job))
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(server, selectors.EVENT_READ)
        problem = ""
        while not problem and len(present) < job.num_processes - 1:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready and time.monotonic() >= deadline:
                problem = _missing(
                    job, sorted({*range(1, job.num_processes)} - {*present}), timeout
                )
            for key, _ in ready:
                if key.fileobj is server:
                    connection = stack.enter_context(server.accept()[0])
                    connection.setblocking(False)
                    selector.register(connection, selectors.EVENT_READ, data=bytearray())
                    continue
                caller, heard = cast(socket.socket, key.fileobj), key.data
                part = _read(caller)
                heard += part
                if not part:  # The process has ended; it may be restarted.
                    selector.unregister(caller)
                    present = {i: other for i, other in present.items() if other is not caller}
                elif heard.endswith(b"\n"):
                    process, host, wrong = _understand(job, heard, present, hosts)
                    problem = problem or wrong
                    if process is not None:
                        present[process], hosts[process] = caller, host
        selector.unregister(server)
        for key in selector.get_map().values():
            caller = cast(socket.socket, key.fileobj)
            caller.settimeout(MARGIN_SECONDS)
            with contextlib.suppress(OSError):  # JAX reports a process that has ended.
                caller.sendall(json.dumps({"problem": problem}).encode() + b"\n")
        for caller in present.values():
            with contextlib.suppress(OSError):
                caller.recv(1)  # The others close first, so that no connection keeps the port.
    if problem:
        raise MissingProcessError(problem)


def _listen(job: Job) -> socket.socket:
    port = job.address[1]
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise MissingProcessError(
            f"process 0 of {job.num_processes} can't listen at port {port} of"
            f" {socket.gethostname()}: {error.strerror}. Is an earlier run still there? End it, or"
            " give all processes another port"
        ) from error


def _read(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionError:
        return b""


def _understand(
    job: Job, heard: bytes, present: dict[int, socket.socket], hosts: dict[int, str]
) -> tuple[int | None, str, str]:
    """Returns the process, host and problem of an announcement; no process if it is invalid."""
    try:
        message = json.loads(heard)
        process, number = int(message["process"]), int(message["of"])
        host = str(message["host"])
    except (ValueError, KeyError, TypeError):
        return None, "", ""  # Another program may scan for open ports.
    if number != job.num_processes:
        problem = f"{host} was started as one of {number} processes, {hosts[0]} as one of"
        return process, host, f"{problem} {job.num_processes}: give all the same number"
    if process in present or not 0 < process < number:
        problem = f"both {hosts.get(process)} and {host} were started as process {process} of"
        return process, host, f"{problem} {number}: give each a number of its own"
    return process, host, ""


def _announce(job: Job, timeout: float) -> None:
    name = f"process 0 of {job.num_processes}, the coordinator at {job.coordinator},"
    with contextlib.closing(_connect(job, timeout, name)) as connection:
        host = socket.gethostname()
        message = {"process": job.process_id, "of": job.num_processes, "host": host}
        connection.settimeout(timeout + MARGIN_SECONDS)
        try:
            connection.sendall(json.dumps(message).encode() + b"\n")
            answer = connection.makefile().readline()
        except OSError as error:
            raise MissingProcessError(f"{name} does not answer: {error}") from error
        try:
            problem = json.loads(answer)["problem"]
        except (ValueError, KeyError, TypeError) as error:
            raise MissingProcessError(
                f"{name} ended before all had come, or is of an earlier run; see its output"
            ) from error
    if problem:
        raise MissingProcessError(problem)


def _connect(job: Job, timeout: float, name: str) -> socket.socket:
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        try:
            return socket.create_connection(job.address, timeout=max(left, RETRY_SECONDS))
        except OSError as error:
            if time.monotonic() + RETRY_SECONDS >= deadline:
                raise MissingProcessError(
                    f"{name} was not reached within {timeout:g} s by process {job.process_id}:"
                    f" {error.strerror or error}. {_advice(job, [0])}"
                ) from error
        time.sleep(RETRY_SECONDS)


def _missing(job: Job, processes: list[int], timeout: float) -> str:
    which = f"process {processes[0]}" if len(processes) == 1 else f"processes {processes}"
    return (
        f"{which} of {job.num_processes} did not come within {timeout:g} s to the coordinator at"
        f" {job.coordinator}. {_advice(job, processes)}"
    )


def _advice(job: Job, processes: list[int]) -> str:
    started = {
        "flags": f"was started with --process_id={processes[0]} and the same --coordinator and"
        " --num_processes",
        "TPU": "was started on every worker (gcloud ... ssh --worker=all)",
        "SLURM": "was started by the same srun",
    }[job.source]
    return (
        f"Check that it {started}, that it has not ended with an error of its own, and that"
        f" {job.coordinator} is process 0's machine and reached from the others (name, firewall)"
    )
