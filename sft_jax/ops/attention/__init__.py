"""Attention kernels: pure functions of arrays."""
