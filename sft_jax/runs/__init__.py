"""What lies on disk: run directories, checkpoints, and locks."""
