"""What other frameworks read and write: checkpoints of the authors' PyTorch code."""
