"""Everything that is known about a run, on one page."""
