"""Compilation of a config for devices that this machine does not have."""
