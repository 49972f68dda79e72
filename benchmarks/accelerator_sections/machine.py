"""Devices, driver and host of the accelerator benchmark."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from typing import Any

import jax

from benchmarks.accelerator_sections import reporting

_FIELDS = "driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.memory"


def describe(_: dict[str, Any]) -> None:
    """Names the devices and the driver."""
    reporting.emit("host", machine=platform.machine(), cores=os.cpu_count())
    for device in jax.devices():
        stats = device.memory_stats() or {}
        reporting.emit(
            str(device),
            kind=device.device_kind,
            platform=device.platform,
            platform_version=device.client.platform_version,
            bytes_limit=stats.get("bytes_limit"),
        )
    if shutil.which("nvidia-smi"):
        with reporting.row("nvidia-smi"):
            reporting.emit("nvidia-smi", **_nvidia_smi())


def _nvidia_smi() -> dict[str, str]:
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={_FIELDS}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    values = done.stdout.splitlines()[0].split(", ")
    return dict(zip(_FIELDS.split(","), values, strict=True))


if __name__ == "__main__":
    reporting.run(describe)
