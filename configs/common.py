"""Base experiments of the config files, and the parser of their argument."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from sft_jax.config_io import from_mapping, to_config_dict
from sft_jax.data.sets.base import DatasetEntry
from sft_jax.plugins import suggest


def parse_arg(arg: str | None, **defaults: Any) -> dict[str, Any]:
    """Reads the part of `--config=FILE:ARG` after the colon, `key=value,key=value`.

    Args:
      arg: Text after the colon, if there is any.
      **defaults: Known keys and their defaults. Each value is read as the type of its default.

    Raises:
      ValueError: For an unknown key or a value of the wrong type.
    """
    values = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        key, separator, text = item.partition("=")
        if not separator or key not in defaults:
            raise ValueError(
                f"config argument {item!r} is not KEY=VALUE with a known key:"
                f" {suggest(key, [*defaults])}"
            )
        kind = type(defaults[key])
        try:
            values[key] = kind(text)
        except ValueError:
            raise ValueError(
                f"config argument {item!r}: expected a value of type {kind.__name__}"
            ) from None
    return values


def small_experiment(
    arg: str | None,
    data: DatasetEntry,
    *,
    pool: str = "attn_topk",
    n_pre: int = 1,
    n_post: int = 3,
    **data_fields: Any,
) -> ml_collections.ConfigDict:
    """Makes an experiment with a small model and short training, for minutes on a laptop.

    Args:
      arg: Text after the colon of `--config=FILE:ARG`. Its keys are `model`, `modality`, `pool`,
        `k`, `saliency`, `readout`, `n_pre`, `n_post`, `mixup` and those of `data_fields`.
      data: Config of the data.
      pool: Default of the argument `pool`.
      n_pre: Default of the argument `n_pre`.
      n_post: Default of the argument `n_post`.
      **data_fields: Fields of `data` that are arguments too, and their defaults.
    """
    pooling = {"pool": pool, "k": 4, "saliency": "received"}
    model = {**pooling, "readout": "sum_cls", "n_pre": n_pre, "n_post": n_post}
    args = parse_arg(arg, model="sft", modality="", **model, mixup="none", **data_fields)
    chosen = {name: args[name] for name in ("modality", *model)}
    return _config_dict(
        data,
        {name: args[name] for name in data_fields},
        model={"name": args["model"], **chosen, "dropout": 0.1, "embedding_std": 0.02},
        optim={"weight_decay": 0.05},
        train={"ema_decay": 0.99},
        mixup={"layers": args["mixup"], "warmup_epochs": 1.0},
    )


def paper_experiment(
    arg: str | None, data: DatasetEntry, *, k: Mapping[str, int], lr: float, **data_fields: Any
) -> ml_collections.ConfigDict:
    """Makes the experiment of Ding et al. 2021, except their code's rules for selecting epochs.

    Args:
      arg: Text after the colon of `--config=FILE:ARG`. Its keys are `size`, `model`, `modality`,
        `pool`, `readout`, `mixup` and those of `data_fields`. `size` is paper or laptop; laptop
        has 2 blocks instead of 11 from fusion on, and 3 epochs.
      data: Config of the data.
      k: Number of tokens kept of each modality.
      lr: Learning rate.
      **data_fields: Fields of `data` that are arguments too, and their defaults.

    Raises:
      ValueError: For an unknown argument or an unknown `size`.
    """
    model = {"modality": "", "pool": "max", "readout": "sum_cls"}
    args = parse_arg(arg, size="paper", model="sft", **model, mixup="any", **data_fields)
    if args["size"] not in ("paper", "laptop"):
        raise ValueError(f"size={args['size']!r} is not one of paper, laptop")
    paper = args["size"] == "paper"
    return _config_dict(
        data,
        {name: args[name] for name in data_fields},
        model={
            "name": args["model"],
            **{name: args[name] for name in model},
            "k": dict(k),
            "n_pre": 1,
            "n_post": 11 if paper else 2,
            "embedding_std": 1.0 if paper else 0.02,
        },
        optim={"lr": lr, "schedule": "plateau", "warmup_epochs": 0.0},
        train={"batch_size": 24, "epochs": 20 if paper else 3},
        mixup={"layers": args["mixup"], "warmup_epochs": 5.0 if paper else 1.0},
    )


def _config_dict(
    data: DatasetEntry, data_fields: Mapping[str, Any], **sections: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    changed = {**dataclasses.asdict(data), **data_fields}
    return to_config_dict(from_mapping({"data": changed, **sections}))
