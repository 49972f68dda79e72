"""What all tests share: eight simulated devices, and shape checks of every annotated call."""

import importlib.metadata
import os
import pathlib

# Before JAX starts: tests of sharding need several devices on any machine.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
if importlib.metadata.version("jaxlib").startswith(("0.8.", "0.9.", "0.10.")):
    # Compiles in less than half of the time; later versions do not know it.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# Compilation is most of what the tests do: optimise less, and let them share the results.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

from jaxtyping import install_import_hook

install_import_hook(["sft_jax.ops", "sft_jax.modules"], "beartype.beartype")
