"""From a trained run to its use: raw values in, names and probabilities out."""
