"""Weights of other frameworks: the authors' PyTorch checkpoints."""
