"""Datasets of TensorFlow Datasets."""
