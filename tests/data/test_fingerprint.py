"""Digests by which a run recognises its data."""

import numpy as np

from sft_jax.data import fingerprint
from sft_jax.data.arrays import from_arrays


def test_a_fingerprint_is_of_all_that_a_model_is_given():
    inputs = {"x": np.arange(60.0).reshape(6, 5, 2), "y": np.ones((6, 3, 1))}
    labels, before = np.arange(6) % 2, dict(inputs)

    def digest(inputs=inputs, labels=labels, names=("a", "b")):
        splits = ("train", "valid", "test")
        original = {split: inputs if split == "test" else before for split in splits}
        reported = {split: labels if split == "test" else np.arange(6) % 2 for split in splits}
        return from_arrays(original, reported, names).fingerprint("test")

    same = {name: values.astype(np.float32) for name, values in inputs.items()}
    assert digest() == digest(same) == digest(names=("c", "d"))
    changed = np.copy(inputs["x"])
    changed[3, 2, 1] += 1
    missing = [*inputs["y"][:5], None]
    others = {
        digest(inputs | {"x": changed}),
        digest(inputs | {"y": missing}),
        digest(labels=1 - labels),
    }
    assert len(others | {digest()}) == 4


def test_a_large_split_is_sampled(monkeypatch):
    monkeypatch.setattr(fingerprint, "MOST_EXAMPLES", 3)
    seen = []

    class Examples:
        def __len__(self):
            return 101

        def __getitem__(self, i):
            seen.append(i)
            return {"id": str(i), "label": 0, "inputs": {}}

    fingerprint.fingerprint(Examples())
    assert seen == [0, 50, 100]
