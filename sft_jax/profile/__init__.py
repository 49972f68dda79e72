"""Parameters, FLOPs, memory and time of models."""
