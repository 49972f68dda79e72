"""Experiments: each module's `get_config(arg)` returns a locked ConfigDict."""
