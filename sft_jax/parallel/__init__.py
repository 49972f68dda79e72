"""Several devices, processes, and hosts."""
