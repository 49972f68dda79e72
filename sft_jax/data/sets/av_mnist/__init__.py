"""AV-MNIST: a handwritten and a spoken digit."""
