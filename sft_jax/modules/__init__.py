"""Flax Linen modules: they own parameters and leave the mathematics to `sft_jax.ops`."""
