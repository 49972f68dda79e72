"""Sweeps: one run for each combination of values of a config's fields."""
