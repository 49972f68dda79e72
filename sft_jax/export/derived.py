"""Derived inputs of an exported file: those that it computes, and those that must be given."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sft_jax.data import derived


def summaries(rules: Mapping[str, str], modalities: Collection[str]) -> dict[str, str]:
    """Finds the modalities that `summary` computes from others of a model.

    Args:
      rules: Name of each derived modality to its rule (`sft_jax.data.derived`).
      modalities: Names of the modalities of the model.

    Returns:
      Their names, in order, to those of their sources.
    """
    sources = {f"summary:{name}": name for name in modalities}
    return {n: sources[rules[n]] for n in sorted(modalities) if rules.get(n) in sources}


def sentences(rules: Mapping[str, str], computed: Collection[str]) -> list[str]:
    """Describes rules to whoever gives the inputs to a file.

    Args:
      rules: Name of each derived modality to its rule.
      computed: Names of those that the file computes.
    """
    texts = zip(rules, derived.sentences(rules), strict=True)
    return [
        f"{text}, {'unless it is given' if name in computed else 'and must be given'}"
        for name, text in texts
    ]
