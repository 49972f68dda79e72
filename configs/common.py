"""Parts that the config files share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from sft_jax.config_io import from_mapping, to_config_dict
from sft_jax.data_config import DataConfig


def parse_arg(arg: str | None, **defaults: Any) -> dict[str, Any]:
    """Reads the part of `--config=FILE:ARG` after the colon, `key=value,key=value`.

    Args:
      arg: Text after the colon, if there is one.
      **defaults: Known keys; each value is read as the type of its default.

    Raises:
      ValueError: For an unknown key or a value of the wrong type.
    """
    values = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        key, separator, text = item.partition("=")
        if not separator or key not in defaults:
            raise ValueError(
                f"config argument {item!r}: expected KEY=VALUE with a key of {sorted(defaults)}"
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
    arg: str | None, data: DataConfig, *, n_pre: int = 1, n_post: int = 3, **data_fields: Any
) -> ml_collections.ConfigDict:
    """A small model and short training, which take minutes on a laptop.

    Args:
      arg: Text after the colon of `--config=FILE:ARG`: `model`, `modality`, `pool`, `k`,
        `readout`, `n_pre`, `n_post` and `mixup` by name, and the fields of the data.
      data: Dataset to train on.
      n_pre: Default of that argument.
      n_post: Default of that argument.
      **data_fields: Fields of `data` that are arguments too, and their defaults.
    """
    model = {"pool": "attn_topk", "k": 4, "readout": "sum_cls", "n_pre": n_pre, "n_post": n_post}
    args = parse_arg(arg, model="sft", modality="", **model, mixup="none", **data_fields)
    chosen = {name: args[name] for name in ("modality", *model)}
    return _config_dict(
        data,
        {name: args[name] for name in data_fields},
        model={"name": args["model"], **chosen, "dropout": 0.1, "embedding_std": 0.02},
        optim={"weight_decay": 0.05},
        train={"ema_decay": 0.99},
        mixup={"layers": args["mixup"]},
    )


def paper_experiment(
    arg: str | None, data: DataConfig, *, k: Mapping[str, int], lr: float, **data_fields: Any
) -> ml_collections.ConfigDict:
    """The settings of Ding et al. 2021, without the rules by which their code selects epochs.

    Args:
      arg: Text after the colon of `--config=FILE:ARG`: `size`, `model`, `modality`, `pool`,
        `readout` and `mixup` by name, and the fields of the data. The size is paper, or laptop,
        which has 2 blocks after fusion in place of 11, and 3 epochs.
      data: Dataset to train on.
      k: Number of tokens that are kept of each modality.
      lr: Learning rate.
      **data_fields: Fields of `data` that are arguments too, and their defaults.

    Raises:
      ValueError: For an unknown argument or `size`.
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
    data: DataConfig, data_fields: Mapping[str, Any], **sections: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    changed = {**dataclasses.asdict(data), **data_fields}
    return to_config_dict(from_mapping({"data": changed, **sections}))
