"""Numbers of an accelerator against those of the CPU: small models, one training step of each.

Both have the same parameters and the same batch, in one process. Compared are the logits in
evaluation, and in training the loss of each example and the gradient. Dropout and mixup are drawn
from the same seed: other draws would give other numbers altogether.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from benchmarks.accelerator_sections import reporting
from sft_jax.config import ExperimentConfig, MixupConfig, ModelConfig, OptimConfig, TrainConfig
from sft_jax.parallel import sharding
from sft_jax.structs import Batch, ModalitySpec
from sft_jax.training import assembly
from sft_jax.training.step import compile_eval_step

TOLERANCE = 1e-4
"""Largest difference, as a share of the largest number compared, in float32 at full precision."""

_MODALITIES = {"long": ModalitySpec(150, 3), "short": ModalitySpec(30, 4, patch_size=2)}
_CLASSES, _BATCH = 5, 8
_POOLS = (
    "max",
    "attn",
    "attn_wkmedoids",
    "channel_topk",
    "attn_random",
    "tome",
    "perceiver",
    "evit",
)


def cases() -> dict[str, dict[str, Any]]:
    """Fields of `ModelConfig` by name of the case, the most important first."""
    models: dict[str, dict[str, Any]] = {
        "sft, plain": {"attention_kernel": "plain"},
        "sft, tiled": {"attention_kernel": "tiled"},
        "sft, flash": {"attention_kernel": "flash"},
        "sft, windowed": {"unimodal_attention": "windowed", "pre_pooling_attention": "windowed"},
        "sft, block_sparse": {"unimodal_attention": "block_sparse"},
    }
    for name in ("late", "concat", "mbt", "mult"):
        models[name] = {"name": name}
    models["unimodal"] = {"name": "unimodal", "modality": "long"}
    return models | {f"sft, {pool}": {"pool": pool} for pool in _POOLS}


def compare(request: dict[str, Any]) -> None:
    """Compares cases and random draws.

    Args:
      request: `cases`, the first and the one after the last of `cases()`; `mixup`, its layers;
        `model`, changed fields of `ModelConfig`; `precisions` of matrix products, where only
        "highest" is held to the tolerance; `threads`, the number that compile.
    """
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    chosen = dict(list(cases().items())[slice(*request["cases"])])
    reporting.emit(
        "comparison",
        device=device.device_kind,
        reference=cpu.device_kind,
        tolerance=TOLERANCE,
        measure="largest difference / largest number of the reference; float32",
        precisions="highest is held to the tolerance, default (TF32 on NVIDIA GPUs) is reported",
    )
    with reporting.row("draws"):
        reporting.emit("draws", **_compare_draws(cpu, device))
    # Nothing here is timed, so the host's cores compile several cases at a time.
    with concurrent.futures.ThreadPoolExecutor(request["threads"]) as pool:
        futures = [
            pool.submit(
                _compare,
                name,
                _config({**model, **request["model"]}, request["mixup"]),
                (cpu, device),
                request,
            )
            for name, model in chosen.items()
        ]
        for future in concurrent.futures.as_completed(futures):
            future.result()


def _compare(
    name: str,
    config: ExperimentConfig,
    devices: tuple[jax.Device, jax.Device],
    request: dict[str, Any],
) -> None:
    cpu, device = devices
    with reporting.row(name):
        initial = _initial(config, cpu)
        reference = _compute(config, initial, cpu, "highest")
        shares = {
            precision: _differences(reference, _compute(config, initial, device, precision))
            for precision in request["precisions"]
        }
        equal = all(share <= TOLERANCE for share in shares["highest"].values())
        reporting.emit(name, equal=equal, **shares)


def _config(model: dict[str, Any], mixup: Any) -> ExperimentConfig:
    small = {"width": 16, "num_heads": 2, "n_pre": 1, "n_post": 1, "k": 4, "dropout": 0.3}
    return ExperimentConfig(
        model=ModelConfig(**small | model),
        # The momentum after the first step is the gradient.
        optim=OptimConfig(
            name="sgd", options={"momentum": 0.5}, clip_norm=0.0, warmup_epochs=0.0, lr=1e-3
        ),
        train=TrainConfig(batch_size=_BATCH, modality_dropout=0.2),
        mixup=MixupConfig(layers=mixup, warmup_epochs=0.0),
    )


def _assemble(config: ExperimentConfig, mesh: Mesh) -> assembly.Assembled:
    return assembly.assemble_model(
        config, _MODALITIES, _CLASSES, num_examples=10 * _BATCH, mesh=mesh
    )


def _initial(config: ExperimentConfig, cpu: jax.Device) -> Any:
    """State before the first step, drawn by the CPU and kept on the host."""
    assembled = _assemble(config, sharding.make_mesh(devices=[cpu]))
    return jax.device_get(assembled.new_state(config.seed))


def _compute(
    config: ExperimentConfig, initial: Any, device: jax.Device, precision: str
) -> dict[str, np.ndarray | list[np.ndarray]]:
    """Logits, losses and the gradient of one case on one device."""
    mesh = sharding.make_mesh(devices=[device])
    with jax.default_matmul_precision(precision):
        assembled = _assemble(config, mesh)
        state = jax.device_put(initial, sharding.replicated(mesh))
        batch = sharding.put_batch(_batch(), mesh)
        positions = sharding.put_batch(np.arange(_BATCH, dtype=np.int32), mesh)
        logits = compile_eval_step(assembled.model, mesh)(state.params, batch, positions).logits
        logits = np.asarray(logits)  # The step takes over the memory of the parameters.
        lowered = assembled.step.lower(state, batch, np.int32(config.seed))
        # A CPU takes longer to optimise the step than to run it unoptimised.
        quick: Any = {"xla_backend_optimization_level": 0} if device.platform == "cpu" else None
        step = lowered.compile(compiler_options=quick)
        new, metrics = step(state, batch, np.int32(config.seed))
    gradient = optax.tree.get(new.opt_state, "trace")
    return {
        "logits": logits,
        "losses": np.asarray(metrics.example_loss),
        "gradient": [np.asarray(array) for array in jax.tree.leaves(gradient)],
    }


def _batch() -> Batch:
    """Random examples: some have padding, and one lacks a modality."""
    random = np.random.default_rng(0)
    inputs, masks = {}, {}
    for name, spec in _MODALITIES.items():
        inputs[name] = random.standard_normal((_BATCH, *spec.shape), np.float32)
        real = random.integers(spec.length // 2, spec.length + 1, _BATCH)
        real[0] = 0 if name == "short" else spec.length
        masks[name] = np.arange(spec.length) < real[:, None]
    return Batch(inputs, masks, np.arange(_BATCH) % _CLASSES, np.ones(_BATCH, np.float32))


def _differences(reference: dict[str, Any], actual: dict[str, Any]) -> dict[str, float]:
    """Largest difference as a share of the largest number, by name."""
    shares = {}
    for name, expected in reference.items():
        pairs = list(zip(jax.tree.leaves(expected), jax.tree.leaves(actual[name]), strict=True))
        largest = max(float(np.abs(a).max()) for a, _ in pairs)
        # Not max over numbers: a NaN must not be passed over.
        difference = np.max([np.abs(a - b).max() for a, b in pairs])
        shares[name] = float(difference / largest)
    return shares


def _compare_draws(cpu: jax.Device, device: jax.Device) -> dict[str, Any]:
    """Compares the draws from one key on both devices, by the kind of number."""

    @jax.jit
    def draw(key: jax.Array) -> dict[str, jax.Array]:
        return {
            "bits": jax.random.bits(key, (1000,)),
            "bernoulli": jax.random.bernoulli(key, 0.7, (1000,)),
            "permutation": jax.random.permutation(key, 1000),
            "uniform": jax.random.uniform(key, (1000,)),
            "normal": jax.random.normal(key, (1000,)),
            "beta": jax.random.beta(key, 0.3, 0.3, (1000,)),
        }

    drawn = [
        jax.device_get(draw(jax.device_put(jax.random.key(7), place))) for place in (cpu, device)
    ]
    return {
        name: {
            "equal": bool(np.array_equal(a, b)),
            "largest_difference": float(jnp.abs(a.astype(np.float64) - b).max()),
        }
        for name, a, b in ((name, drawn[0][name], drawn[1][name]) for name in drawn[0])
    }


if __name__ == "__main__":
    reporting.run(compare)
