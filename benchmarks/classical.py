"""Classical models on statistics of windows, to compare a network with."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sft_jax.data.dataset import Dataset


def window_statistics(examples: list) -> np.ndarray:
    """Mean, deviation, minimum, maximum and quartiles of each channel, as `[examples, 36]`."""
    windows = np.stack([np.hstack(list(example["inputs"].values())) for example in examples])
    parts = [windows.mean(1), windows.std(1), windows.min(1), windows.max(1)]
    return np.hstack([*parts, *np.quantile(windows, [0.25, 0.75], axis=1)])


def baselines(dataset: Dataset, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy on the test split of classical models that are fitted to the training split."""
    splits = {split: list(dataset.source(split)) for split in ("train", "test")}
    x = {split: window_statistics(examples) for split, examples in splits.items()}
    y = {split: [example["label"] for example in splits[split]] for split in splits}
    models = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        "random forest": RandomForestClassifier(500, random_state=seed, n_jobs=2),
    }
    return {
        name: {
            "accuracy": float(model.fit(x["train"], y["train"]).score(x["test"], y["test"])),
            "n_examples": len(y["test"]),
        }
        for name, model in models.items()
    }
