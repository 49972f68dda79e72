"""Pools: reductions of a sequence to a few tokens."""
