"""Feature files of CMU-MOSI and CMU-MOSEI, in the published forms.

The datasets are clips of people giving an opinion. Each is labelled with its sentiment: a number
from -3, highly negative, to 3, highly positive. A file is a pickle that maps split and key to an
array with a row per clip. Published work uses extracted features; two sets of them are common:

- MulT (Tsai et al., "Multimodal Transformer for Unaligned Multimodal Language Sequences",
  ACL 2019, arXiv 1906.00295). GloVe words, COVAREP audio and Facet vision are padded with zeros
  in front (https://github.com/yaohungt/Multimodal-Transformer/issues/3), and have no lengths.
- MMSA (Yu et al., "Learning Modality-Specific Representations with Self-Supervised Multi-Task
  Learning for Multimodal Sentiment Analysis", AAAI 2021, arXiv 2102.04830,
  https://github.com/thuiar/MMSA). The same audio and vision are padded behind. The text is the
  output of BERT, with the tokens and their mask.

Both come word-aligned, with the same number of steps in each modality, and not aligned.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from sft_jax.data.records import RawData, Record
from sft_jax.data.sets.sentiment.form import (
    MODALITIES,
    SentimentSplit,
    Variant,
    checked_form,
    raise_problems,
)
from sft_jax.data.sets.sentiment.padding import find_padding, find_spans
from sft_jax.data.sets.sentiment.unpickling import load_pickle

# The counts come from public code that uses the files: MMSA's configs (`train_samples`), and
# quotations of the appendix of MultiBench (Liang et al., NeurIPS 2021), whose file has MulT's
# aligned form. No count could be confirmed for MulT's unaligned MOSEI file.
KNOWN_RELEASES: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "mosei": {
        "MultiBench": {"train": 16265, "valid": 1869, "test": 4643},
        "MMSA": {"train": 16326, "valid": 1871, "test": 4659},
    },
    "mosi": {"MulT and MMSA": {"train": 1284, "valid": 229, "test": 686}},
}

_STEPS = {"mosei": (500, 500, 50), "mosi": (500, 375, 50)}
_STEPS_ALIGNED = (50, 50, 50)
_FEATURES = {"mosei": (35, 74), "mosi": (20, 5)}
_TEXT_FEATURES = {"mult": 300, "mmsa": 768}  # GloVe, BERT


def published_shapes(dataset: str, variant: Variant) -> dict[str, tuple[int, ...]]:
    """Returns the `(steps, features)` of each modality in the published files, padding included.

    The shape of a file that is read has the length of its longest example. In the published
    files the longest examples fill all steps.

    Args:
      dataset: Name of the dataset, "mosei" or "mosi".
      variant: Variant of the file; see `read_sentiment`.
    """
    source, _, alignment = variant.partition("_")
    steps = _STEPS_ALIGNED if alignment == "aligned" else _STEPS[dataset]
    features = (*_FEATURES[dataset], _TEXT_FEATURES[source])
    return dict(zip(MODALITIES, zip(steps, features, strict=True), strict=True))


def sentiment_class(value: float) -> int:
    """Rounds a sentiment to a class: 0 (highly negative) to 6 (highly positive).

    Halves go to the even number, as in all publications with seven classes: 2.5 is class 5,
    -0.5 and 0.5 are class 3.

    Raises:
      ValueError: If the value is not a number from -3 to 3.
    """
    if not -3 <= value <= 3:
        raise ValueError(f"sentiment {value} is not a number from -3 to 3")
    return round(float(value)) + 3


def read_sentiment(path: str | os.PathLike[str], dataset: str) -> RawData:
    """Reads a feature file, and detects its variant from its contents.

    The variants are `mult_aligned`, `mult_noalign`, `mmsa_aligned` and `mmsa_unaligned`. Padding
    is removed. Padding is defined as follows:

    - `mult_noalign`: steps before the first nonzero step (or after the last, if the padding is
      behind), in each modality separately.
    - `mult_aligned`: steps that are zero in all modalities at once, so that the modalities of
      an example stay aligned.
    - `mmsa_aligned`: steps that the token mask leaves out, in all modalities, so that they stay
      aligned. The first and the last token stand for no word: audio and vision are zero there.
    - `mmsa_unaligned`: text steps that the token mask leaves out, and steps of audio and vision
      beyond the length in the file. MMSA's script takes the position of the first zero step for
      the length, at least 1. If a length ends at a zero step, the example therefore lasts until
      its last nonzero step.

    Zero steps in between are kept. A modality with only zero steps in an example is left out of
    the example; an example may have no modality at all.

    Args:
      path: Path of a pickle; see `load_pickle`.
      dataset: Name of the dataset, "mosei" or "mosi". Both have the same form; their releases
        differ in size.

    Returns:
      The examples, with labels `[1]` float32 and inputs in the dtype of the file. The values of
      the inputs are read from the file on use. Audio holds numbers that are not finite.

    Raises:
      ValueError: If the dataset is unknown.
      DataFileError: If the file has another form; the message lists all faults.
      OSError: If the file cannot be read.
    """
    if dataset not in KNOWN_RELEASES:
        raise ValueError(f"dataset={dataset!r} is not one of {', '.join(KNOWN_RELEASES)}")
    path = pathlib.Path(path)
    variant, splits = checked_form(path, load_pickle(path))
    padding = find_padding(variant, splits)
    spans = {name: find_spans(variant, split, padding) for name, split in splits.items()}
    return RawData(
        variant=variant,
        files=(path,),
        shapes=_shapes(path, splits, spans),
        class_names=("sentiment",),
        task="regression",
        num_examples={name: len(split.ids) for name, split in splits.items()},
        read=functools.partial(_read, splits, spans),
        padding=padding,
        known_releases=KNOWN_RELEASES[dataset],
    )


def _read(
    splits: Mapping[str, SentimentSplit], spans: Mapping[str, Mapping[str, np.ndarray]], name: str
) -> Iterator[Record]:
    if name not in splits:
        raise ValueError(f"no split {name!r}: there are {', '.join(splits)}")
    return _records(splits[name], spans[name])


def _records(split: SentimentSplit, spans: Mapping[str, np.ndarray]) -> Iterator[Record]:
    for row, (name, label) in enumerate(zip(split.ids, split.labels, strict=True)):
        inputs = {
            modality: split.features[modality][row, start:stop]
            for modality in MODALITIES
            for start, stop in [spans[modality][row]]
            if start < stop
        }
        yield Record(id=name, inputs=inputs, label=np.array([label], np.float32))


def _shapes(
    path: pathlib.Path,
    splits: Mapping[str, SentimentSplit],
    spans: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, tuple[int, ...]]:
    lengths = {
        modality: max(
            int(np.ptp(split_spans[modality], axis=1).max()) for split_spans in spans.values()
        )
        for modality in MODALITIES
    }
    empty = [modality for modality, length in lengths.items() if not length]
    raise_problems(path, [f"{modality}: nothing but zeros in all examples" for modality in empty])
    features = splits["train"].features
    return {modality: (lengths[modality], features[modality].shape[2]) for modality in MODALITIES}
