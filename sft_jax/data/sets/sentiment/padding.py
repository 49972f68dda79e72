"""Start and stop of the steps of each example in a padded file of MulT or MMSA."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sft_jax.data.records import Padding
from sft_jax.data.sets.sentiment.form import MODALITIES, SentimentSplit, Variant


def find_padding(variant: Variant, splits: Mapping[str, SentimentSplit]) -> dict[str, Padding]:
    """Finds the side of the padding for each modality, by a majority of the examples."""
    edges: dict[str, list[np.ndarray]] = {modality: [] for modality in MODALITIES}
    for split in splits.values():
        for modality, values in split.features.items():
            edges[modality].append((values[:, [0, -1]] != 0).any(axis=-1))
    if variant == "mult_aligned":
        joint = list(
            np.logical_or.reduce([np.concatenate(parts) for parts in edges.values()])[None]
        )
        edges = {modality: joint for modality in MODALITIES}
    if variant.startswith("mmsa"):
        masks = [split.text_mask for split in splits.values() if split.text_mask is not None]
        edges["text"] = [mask[:, [0, -1]] for mask in masks]
    if variant == "mmsa_aligned":
        edges = {modality: edges["text"] for modality in MODALITIES}
    expected: Padding = "left" if variant.startswith("mult") else "right"
    return {modality: _side(np.concatenate(parts), expected) for modality, parts in edges.items()}


def _side(edges: np.ndarray, expected: Padding) -> Padding:
    first, last = edges[:, 0], edges[:, 1]
    if (first & last).all():
        return "none"
    left, right = int((~first & last).sum()), int((first & ~last).sum())
    if left == right:
        return expected
    return "left" if left > right else "right"


def find_spans(
    variant: Variant, split: SentimentSplit, padding: Mapping[str, Padding]
) -> dict[str, np.ndarray]:
    """Finds the start and stop of the real steps of each example, `[n, 2]` per modality."""
    spans = {modality: np.zeros((len(split.ids), 2), np.int64) for modality in MODALITIES}
    for row in range(len(split.ids)):
        real = {
            modality: (values[row] != 0).any(axis=-1) for modality, values in split.features.items()
        }
        mask = None if split.text_mask is None else split.text_mask[row]
        for modality in MODALITIES:
            side = padding[modality]
            if variant == "mult_aligned":
                span = _span(np.logical_or.reduce(list(real.values())), side)
            elif modality in split.lengths:
                span = _span_of_length(real[modality], int(split.lengths[modality][row]), side)
            elif mask is not None:
                span = _outer_span(mask)
            else:
                span = _span(real[modality], side)
            if real[modality][slice(*span)].any():
                spans[modality][row] = span
    return spans


def _span(real: np.ndarray, side: Padding) -> tuple[int, int]:
    start, stop = _outer_span(real)
    return start if side == "left" else 0, stop if side == "right" else len(real)


def _outer_span(real: np.ndarray) -> tuple[int, int]:
    steps = np.flatnonzero(real)
    return (int(steps[0]), int(steps[-1]) + 1) if len(steps) else (0, 0)


def _span_of_length(real: np.ndarray, length: int, side: Padding) -> tuple[int, int]:
    from_edge = real[::-1] if side == "left" else real
    ends_at_zero = length < len(real) and not from_edge[length]
    # MMSA's script searches from the front, and gives length 1 if the first step is zero.
    if ends_at_zero or (length == 1 and not real[0]):
        length = max(length, _outer_span(from_edge)[1])
    return (len(real) - length, len(real)) if side == "left" else (0, length)
