"""Readers of raw files: each gives `sft_jax.data.records.RawData`."""
