"""Datasets, one entry each: settings, reader, labels, splits and metrics."""
