"""Attention over padded sequences: pure functions of arrays."""
