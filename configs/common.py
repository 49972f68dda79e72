"""Base experiments of the config files, and the parser of their argument."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from sft_jax.config_io import from_mapping, to_config_dict
from sft_jax.data.sets.base import DatasetEntry
from sft_jax.plugins import suggest

SIZES: Mapping[str, Mapping[str, Any]] = {
    size: {
        "width": width,
        "num_heads": width // 128,
        "mlp_ratio": 4,
        "remat": True,
        "dtype": "bfloat16",
    }
    for size, width in {"base": 256, "large": 512}.items()
}
"""Fields of a model in shapes that fill the matrix units of accelerators, by the size's name."""


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
      arg: Text after the colon of `--config=FILE:ARG`. Its keys are `size`, `model`, `modality`,
        `pool`, `k`, `saliency`, `readout`, `n_pre`, `n_post`, `mixup` and those of `data_fields`.
        `size` is small, or one of `SIZES`.
      data: Config of the data.
      pool: Default of the argument `pool`.
      n_pre: Default of the argument `n_pre`.
      n_post: Default of the argument `n_post`.
      **data_fields: Fields of `data` that are arguments too, and their defaults.

    Raises:
      ValueError: For an unknown argument or an unknown `size`.
    """
    pooling = {"pool": pool, "k": 4, "saliency": "received"}
    model = {**pooling, "readout": "sum_cls", "n_pre": n_pre, "n_post": n_post}
    own = {"size": "small", "model": "sft", "modality": ""}
    args = parse_arg(arg, **own, **model, mixup="none", **data_fields)
    chosen = {name: args[name] for name in ("modality", *model)}
    return _config_dict(
        data,
        {name: args[name] for name in data_fields},
        model={
            "name": args["model"],
            **chosen,
            "dropout": 0.1,
            "embedding_std": 0.02,
            **_sized(args, "small"),
        },
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
        `pool`, `readout`, `mixup` and those of `data_fields`. `size` is paper, laptop or one of
        `SIZES`. Laptop has 2 blocks instead of 11 from fusion on, and 3 epochs. Those of `SIZES`
        have batches of 1,024; their learning rate is the paper's, and not tuned.
      data: Config of the data.
      k: Number of tokens kept of each modality.
      lr: Learning rate.
      **data_fields: Fields of `data` that are arguments too, and their defaults.

    Raises:
      ValueError: For an unknown argument or an unknown `size`.
    """
    model = {"modality": "", "pool": "max", "readout": "sum_cls"}
    args = parse_arg(arg, size="paper", model="sft", **model, mixup="any", **data_fields)
    sized = _sized(args, "paper", "laptop")
    laptop = args["size"] == "laptop"
    return _config_dict(
        data,
        {name: args[name] for name in data_fields},
        model={
            "name": args["model"],
            **{name: args[name] for name in model},
            "k": dict(k),
            "n_pre": 1,
            "n_post": 2 if laptop else 11,
            "embedding_std": 1.0 if args["size"] == "paper" else 0.02,
            **sized,
        },
        optim={"lr": lr, "schedule": "plateau", "warmup_epochs": 0.0},
        train={"batch_size": 1024 if sized else 24, "epochs": 3 if laptop else 20},
        mixup={"layers": args["mixup"], "warmup_epochs": 1.0 if laptop else 5.0},
    )


def _sized(args: Mapping[str, Any], *others: str) -> dict[str, Any]:
    """Returns the fields of a model by the argument `size`; none for one of `others`."""
    size = args["size"]
    if size not in SIZES and size not in others:
        raise ValueError(f"size={size!r} is not one of {', '.join([*others, *SIZES])}")
    fields = dict(SIZES.get(size, {}))
    if args["model"] == "mult":
        fields.pop("mlp_ratio", None)  # Its layers have this ratio themselves.
    return fields


def _config_dict(
    data: DatasetEntry, data_fields: Mapping[str, Any], **sections: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    changed = {**dataclasses.asdict(data), **data_fields}
    return to_config_dict(from_mapping({"data": changed, **sections}))
