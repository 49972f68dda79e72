"""Evaluation of a trained model: predictions, metrics, tables and pictures."""
