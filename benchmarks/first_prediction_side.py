"""One start of `first_prediction.py`, which imports nothing but what a user does."""

import time

import numpy as np


def predict(workdir: str) -> dict[str, float]:
    """Seconds of importing the package, loading a run and predicting one example."""
    begin = time.perf_counter()
    import sft_jax

    imported = time.perf_counter()
    classifier = sft_jax.load(workdir)
    loaded = time.perf_counter()
    statistics, random = classifier.info.statistics, np.random.default_rng(0)
    window = {
        name: random.normal(statistics[name].mean, statistics[name].std, size=spec.shape)
        for name, spec in classifier.info.modalities.items()
    }
    classifier.predict(window)
    return {
        "import": imported - begin,
        "load": loaded - imported,
        "predict": time.perf_counter() - loaded,
    }
