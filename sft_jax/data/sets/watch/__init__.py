"""The smartwatch shoulder exercises."""
