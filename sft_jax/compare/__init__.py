"""Comparison of trained runs: one table of results, paired differences and costs."""
