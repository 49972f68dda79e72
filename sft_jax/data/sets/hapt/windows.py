"""Windows of the recordings of HAPT, each with its activity or with all labels that occur in it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from sft_jax.data.sets.hapt.files import ACTIVITIES, SAMPLE_RATE, Recording

Target = Literal["tagging", "activity"]

LEAST_SECONDS = 0.5
"""Shortest time that an activity takes in a window that it is a label of."""


class Window(NamedTuple):
    """Place and label of a window.

    Attributes:
      start: First sample.
      label: Index of the activity; for tagging `[12]` float32, 1 for each label and 0 elsewhere.
    """

    start: int
    label: int | np.ndarray


def cut(recording: Recording, target: Target, window: int, stride: int) -> list[Window]:
    """Places windows on a recording.

    For tagging they begin at the first sample of the recording. A label counts if its segments
    take at least `LEAST_SECONDS` of the window, and a window without any is left out. For the
    activity they begin at the first sample of each segment, and lie within it.

    Args:
      recording: Recording with its segments.
      target: Kind of label.
      window: Length of a window in samples.
      stride: Number of samples from the start of a window to the start of the next.
    """
    if target == "activity":
        return [
            Window(start, activity)
            for activity, first, stop in recording.segments
            for start in range(first, stop - window + 1, stride)
        ]
    starts = np.arange(0, recording.samples - window + 1, stride)
    samples = np.zeros((len(starts), len(ACTIVITIES)), np.int64)
    for activity, first, stop in recording.segments:
        overlap = np.minimum(starts + window, stop) - np.maximum(starts, first)
        samples[:, activity] += np.maximum(overlap, 0)
    labels = (samples >= LEAST_SECONDS * SAMPLE_RATE).astype(np.float32)
    return [
        Window(int(start), label)
        for start, label in zip(starts, labels, strict=True)
        if label.any()
    ]


def longest(recording: Recording, target: Target) -> int:
    """Returns the length of the longest window that fits, in samples."""
    if target == "tagging" and recording.segments:
        return recording.samples
    return max((segment.stop - segment.start for segment in recording.segments), default=0)
