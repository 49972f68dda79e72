"""Picture of a learning-rate range test."""

from __future__ import annotations

from collections.abc import Sequence

from sft_jax.evaluation import pictures
from sft_jax.runs.storage import AnyPath


def draw_rates(
    path: AnyPath,
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    marked: dict[str, float],
    title: str,
) -> None:
    """Draws the loss against the learning rate.

    Args:
      path: Path of the picture.
      rates: Learning rate of each step.
      losses: Training loss of each step.
      smoothed: Mean of `losses` over neighbouring steps.
      marked: Rates to mark by name.
      title: Title of the picture.
    """
    with pictures.drawn(path, (7, 4.5), [title, *marked]) as figure:
        axes = figure.subplots()
        axes.plot(rates, losses, color="lightgrey", label="loss")
        axes.plot(rates, smoothed, color="C0", label="smoothed")
        for number, (name, rate) in enumerate(marked.items(), start=1):
            label = f"{name}: {rate:.2g}"
            axes.axvline(rate, color=f"C{number}", linestyle="--", label=label)
        # One large loss at the end would flatten all others.
        most = max(smoothed)
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        # Text is never parsed as a formula, as the default labels of this scale would need.
        axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
        axes.set_ylim(top=most + 0.1 * abs(most - min(smoothed)))
        axes.set_title(pictures.wrapped(title, 70))
        axes.legend()
