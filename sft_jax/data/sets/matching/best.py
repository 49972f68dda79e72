"""Best accuracy that any classifier can have, in closed form."""

from __future__ import annotations

import numpy as np


def best_accuracies(bits: int, flip: float, lean: float) -> dict[str, float]:
    """Accuracies of the Bayes classifier, which knows how the examples are made.

    Let `J_y[v, w]` be the probability of label `y` with the meant values `v` and `w`. Let `N[v, o]`
    be that of finding `o` where `v` was meant. Then label and findings have the probabilities
    `N' J_y N`. The Bayes classifier takes the likelier label, so its accuracy is the sum over all
    findings of the larger probability. Events are independent of each other.

    Args:
      bits: Number of bits of a value.
      flip: Probability that a planted value is replaced.
      lean: Amount by which agreement is likelier for odd values.

    Returns:
      Share of right labels of a classifier of `both` modalities, of the better `one`, and of
      `none`, which guesses.
    """
    count = 2**bits
    same = np.eye(count)
    others = (1 - same) / (count - 1)
    agreement = 0.5 + lean * np.where(np.arange(count) % 2, 1, -1)
    agree = np.diag(agreement) / count
    differ = (1 - agreement)[:, None] * others / count
    noise = (1 - flip) * same + flip * others
    joint = np.stack([noise.T @ meant @ noise for meant in (agree, differ)])
    one = [joint.sum(axis=axis).max(axis=0).sum() for axis in (1, 2)]
    return {
        "both": float(joint.max(axis=0).sum()),
        "one": float(max(one)),
        "none": float(joint.sum(axis=(1, 2)).max()),
    }
