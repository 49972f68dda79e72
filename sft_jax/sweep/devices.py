"""Runs of a sweep side by side, each on a device of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import jax

from sft_jax.parallel import preemption
from sft_jax.training import reporting

_logger = logging.getLogger(__name__)


def several() -> list[jax.Device]:
    """Devices that may each train a run of their own; empty if there is only one."""
    devices = jax.local_devices()
    if len(devices) > 1:
        return devices
    _logger.info("there is one device, %s: the runs are trained one after the other", *devices)
    return []


def side_by_side(work: Callable[[jax.Device], None], devices: Sequence[jax.Device]) -> None:
    """Calls a function with each device, each in a thread of its own, and waits for all.

    Python handles signals in the main thread alone. The first SIGTERM there reaches the runs of
    all threads, which save their state and end.

    Args:
      work: Function of a device.
      devices: Devices.

    Raises:
      PreemptedError: If the process was asked to end.
      BaseException: The first error that a call raised.
    """
    errors: list[BaseException] = []

    def call(device: jax.Device) -> None:
        try:
            reporting.shows_bar.set(False)  # Several bars would overwrite each other.
            with jax.default_device(device):
                work(device)
        except BaseException as error:  # Raised below, in the main thread.
            errors.append(error)

    # A thread that is no daemon would go on after Ctrl-C.
    threads = [threading.Thread(target=call, args=(device,), daemon=True) for device in devices]
    with preemption.watch() as notice:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    if notice.received:
        raise preemption.PreemptedError("stopped: the same command goes on from here")
