"""Training of one model for several patch sizes.

Each step trains with one stride, as FlexiViT does (Beyer et al. 2023, arXiv 2212.08013). The
parameters hold the kernels of the largest; each step resizes them (`sft_jax.modules.stride`), and
gradients flow back through that.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax.errors import ScopeParamShapeError

from sft_jax.config import TrainConfig
from sft_jax.modules.stride import resize_params, with_stride
from sft_jax.training.elastic import check_budgets


def draw_stride(strides: Sequence[int], seed: int, step: int) -> int:
    """Draws the stride of a training step on the host, purely from the arguments.

    Every group of as many steps as there are strides takes each of them once.

    Args:
      strides: Strides, `train.elastic_patch`.
      seed: Seed of the run.
      step: Number of steps taken before.
    """
    group, place = divmod(step, len(strides))
    random = np.random.RandomState([seed, zlib.crc32(b"stride"), group])
    return sorted(strides)[random.permutation(len(strides))[place]]


def strided_trainings(model: Any, train: TrainConfig) -> dict[int, TrainConfig]:
    """Checks that a model can be trained with each stride, and with each number of kept tokens.

    Args:
      model: Model to train.
      train: Section of training, with `elastic_patch` and `elastic_k`.

    Returns:
      The section for each stride. Numbers of kept tokens above the fewest of any modality become
      that number.

    Raises:
      ValueError: If a stride or a number of kept tokens does not fit the model.
    """
    check_budgets(model, train.elastic_k)
    trainings = {1: train}
    for stride in sorted(set(train.elastic_patch) - {1}):
        try:
            larger = with_stride(model, stride)
            _check_params(model, larger, stride)
        except ValueError as error:
            raise ValueError(f"train.elastic_patch={train.elastic_patch}: {error}") from None
        budgets = _budgets(larger, train, stride) if train.elastic_k else ()
        check_budgets(larger, budgets)
        trainings[stride] = dataclasses.replace(train, elastic_k=budgets)
    return trainings


def _budgets(larger: Any, train: TrainConfig, stride: int) -> tuple[int, ...]:
    """Numbers of kept tokens that are left at a stride."""
    tokens = {name: larger.modalities[name].num_tokens for name in larger.mixed_modalities}
    fewest = min(tokens, key=tokens.__getitem__)
    left = tuple(dict.fromkeys(min(k, tokens[fewest]) for k in train.elastic_k))
    if len(left) < 2:
        raise ValueError(
            f"train.elastic_k={train.elastic_k} with train.elastic_patch={train.elastic_patch}: at"
            f" stride {stride} modality {fewest!r} has {tokens[fewest]} tokens, and every number"
            f" becomes {left[0]}; add a smaller one"
        )
    return left


def _check_params(model: Any, larger: Any, stride: int) -> None:
    """Raises ValueError if other parameters than those of tokenizers depend on the tokens."""

    def outputs() -> Any:
        params = model.init(jax.random.key(0), model.example_inputs())["params"]
        resized = resize_params(model, params, stride)
        return larger.apply({"params": resized}, larger.example_inputs())

    try:
        jax.eval_shape(outputs)
    except ScopeParamShapeError as error:
        raise ValueError(
            f"stride={stride}: a parameter of {type(model).__name__} depends on the number of"
            f" tokens, so that 1 is allowed: {error}"
        ) from None
