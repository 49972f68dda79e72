"""Run directories: their files, checkpoints and locks."""
