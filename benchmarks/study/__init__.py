"""The study: SFT beside its controls on five datasets, in accuracy and in cost."""
