"""Settings of all tests: simulated devices, checked shapes, and processes only where marked."""

import gc
import importlib.metadata
import os
import pathlib
import sys

import pytest

# Before JAX starts: tests of sharding need several devices on any machine.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
# Programs are small: to compile their parts side by side takes longer.
os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith(("0.8.", "0.9.", "0.10.")):
    # Compiles in less than half of the time; later versions do not know it.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# Compilation is most of what the tests do: optimise less, and let them share the results.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Tracing makes millions of small objects, hardly any of them in cycles: look for these less often.
gc.set_threshold(20_000, 20, 100)

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["sft_jax.ops", "sft_jax.modules"], "beartype.beartype")

MOST_BYTES = 1200 * 2**20
"""Memory that a process of the tests may keep from one file to the next."""

_running = None
"""Name of the test that runs, if it is not marked `process`."""


def _refuse_processes(event, arguments):
    starts = event == "subprocess.Popen" and str(arguments[0]) == sys.executable
    if _running and (starts or event == "os.fork"):
        raise RuntimeError(f"{_running} starts a process: mark the test `process`")


sys.addaudithook(_refuse_processes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    global _running
    _running = None if item.get_closest_marker("process") else item.nodeid
    try:
        return (yield)
    finally:
        _running = None
        if nextitem is None or nextitem.path != item.path:
            _free_memory()


def _free_memory():
    """Drops compiled programs, unless they are few; other files hardly need them again."""
    import jax

    from sft_jax.profile import process_memory

    if (process_memory.resident_bytes() or 0) > MOST_BYTES:
        jax.clear_caches()
        process_memory.settle()
