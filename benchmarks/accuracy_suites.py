"""Named lists of experiments, one list for each table of accuracies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.variant import Variant
from configs import watch
from sft_jax.modules.reducer import POOLS
from sft_jax.modules.sft import READOUTS


class Suite(NamedTuple):
    """A table of accuracies.

    Attributes:
      rows: Experiments of each row by its name. A row of several takes their runs together.
      seeds: Seeds that each experiment is trained with.
      classical: Adds classical models, trained and tested on the data of the first row.
      step_seconds: Adds the seconds of a training step.
      budgets: Numbers of kept tokens that the runs of some rows are evaluated with as well.
      strides: Strides that the runs of some rows are evaluated with as well.
      differences: Pairs of rows by name; the second's accuracies minus the first's are reported
        seed by seed.
    """

    rows: Mapping[str, Sequence[Variant]]
    seeds: Sequence[int] = (0, 1, 2)
    classical: bool = False
    step_seconds: bool = False
    budgets: Mapping[str, Sequence[int]] = {}
    strides: Mapping[str, Sequence[int]] = {}
    differences: Mapping[str, tuple[str, str]] = {}

    @property
    def scope(self) -> str:
        """Code that can change the accuracies (`benchmarks.freshness`)."""
        configs = {variant.config for row in self.rows.values() for variant in row}
        own = ["benchmarks/classical.py"] if self.classical else []
        return " ".join(["accuracy", *sorted(configs), *own])


def _rows(config: str, arguments: Iterable[str]) -> dict[str, list[Variant]]:
    return {argument or "default": [Variant(config, argument)] for argument in arguments}


_MODELS = (
    "model=late",
    "model=concat",
    "model=unimodal,modality=accelerometer",
    "model=unimodal,modality=gyroscope",
    "model=mbt",
    "model=mult",
)
_SELECTING_POOLS = (
    "max",
    "attn_topk",
    "tome",
    "evit",
    "avg",
    "attn",
    "attn_wkmedoids",
    "perceiver",
    "token_learner",
    "channel_topk",
    "random",
    "attn_random",
    "strided_random",
)
# Settings are selected by leaving out these people in turn; people 8 to 10 are for the tables.
_SELECTED_ON = (2, 4, 5, 7)
_READOUT_CHOICES = (
    *(f"readout={name}" for name in ("sum_cls", "fresh_cls", "modality_cls", "mean", "attention")),
    "mixup=within",
    "mixup=any",
)
_AV_MNIST = (
    "model=unimodal,modality=image",
    "model=unimodal,modality=sound",
    "model=late",
    "model=concat",
    "model=mbt",
    "k=1",
    "k=4",
    "k=16",
    "k=0",
    "n_pre=1,n_post=3,k=4",
)


# 125 tokens a modality.
_LONG_WINDOWS = {"data.window_seconds": 10.0, "data.patch_size": 4, "train.epochs": 8}


def _elastic(
    config: str,
    budgets: Sequence[int],
    changes: Mapping[str, Any] = {},
) -> Suite:
    """One model for several numbers of tokens, beside models for one number each."""
    rows = {"elastic": Variant(config, "", {**changes, "train.elastic_k": budgets})}
    for k in sorted(budgets, key=lambda k: k != 4):
        rows[f"k={k}"] = Variant(config, f"k={k}", changes)
    return Suite(
        {name: [variant] for name, variant in rows.items()},
        seeds=(0, 1, 2, 3, 4),
        budgets={"elastic": budgets, "k=4": budgets},
    )


_STRIDES = (1, 2, 4)
_FINEST_PATCH = 2  # Steps of the watch: 100 tokens of each modality.


def _pools(k: int) -> Suite:
    return Suite(_rows("watch", (f"pool={pool},k={k}" for pool in _SELECTING_POOLS)))


def _patches(stride: int, changes: Mapping[str, Any] | None = None) -> Variant:
    return Variant("watch", "", {"data.patch_size": _FINEST_PATCH * stride, **(changes or {})})


def _long_sequences(attention: str) -> dict[str, list[Variant]]:
    """Windows of 10 s with every sample a token, and digits in finer patches."""
    kernels = {"model.unimodal_attention": attention, "model.pre_pooling_attention": attention}
    every_sample = {"data.window_seconds": 10.0, "data.patch_size": 1, "train.epochs": 8}
    fine_patches = {
        "data.valid_pairs": 500,
        "data.test_pairs": 5000,
        "data.patch_size": {"image": (2, 2), "sound": (2, 4)},
        "train.epochs": 10,
    }
    digits = Variant("av_mnist", "train_pairs=4000,n_pre=1,n_post=3", fine_patches | kernels)
    return {
        f"watch/{attention}": [Variant("watch", "", every_sample | kernels)],
        f"av_mnist/{attention}": [digits],
    }


SUITES: Mapping[str, Suite] = {
    "watch_accuracy": Suite(_rows("watch", [""]), classical=True),
    "watch_five_seeds": Suite(_rows("watch", [""]), seeds=(0, 1, 2, 3, 4)),
    "watch_leave_one_out": Suite(
        {"default": [Variant("watch", f"leave_out={person}") for person in watch.PEOPLE]},
        seeds=(0,),
        classical=True,
    ),
    # Every pool, and CLS alone; every other model, readout and kind of mixup.
    "watch_ablation": Suite(
        _rows(
            "watch",
            [
                *(f"pool={pool}" for pool in POOLS),
                "k=0",
                *_MODELS,
                *(f"readout={readout}" for readout in READOUTS if readout != "sum_cls"),
                *(f"mixup={layers}" for layers in ("within", "fused", "any")),
            ],
        ),
        classical=True,
    ),
    "watch_pools_k1": _pools(1),
    "watch_pools_k16": _pools(16),
    "watch_fresh_cls": Suite(
        _rows(
            "watch",
            (
                f"readout=fresh_cls,pool={pool},k={k}"
                for k in (4, 1, 16)
                for pool in ("attn_topk", "max", "evit")
            ),
        )
    ),
    "watch_readout_choice": Suite(
        _rows(
            "watch",
            (
                f"{choice},leave_out={person}"
                for choice in _READOUT_CHOICES
                for person in _SELECTED_ON
            ),
        ),
        seeds=(0, 1),
    ),
    "watch_elastic": _elastic("watch", (0, 1, 2, 4, 8, 20)),
    "watch_long_elastic": _elastic("watch", (0, 4, 64), _LONG_WINDOWS),
    "av_mnist_elastic": _elastic("av_mnist", (0, 1, 4, 16)),
    # One model for every patch size, beside models for one size each.
    "watch_elastic_patch": Suite(
        {
            "elastic": [_patches(1, {"train.elastic_patch": _STRIDES})],
            **{f"patch_size={_FINEST_PATCH * stride}": [_patches(stride)] for stride in _STRIDES},
        },
        seeds=(0, 1, 2, 3, 4),
        strides={"elastic": _STRIDES, f"patch_size={_FINEST_PATCH}": _STRIDES},
    ),
    "av_mnist": Suite(_rows("av_mnist", _AV_MNIST), seeds=(0, 1, 2, 3, 4), step_seconds=True),
    "av_mnist_fresh_cls": Suite(
        _rows("av_mnist", ["readout=fresh_cls,k=4"]), seeds=(0, 1, 2, 3, 4), step_seconds=True
    ),
    "sparse_accuracy": Suite(
        _long_sequences("dense") | _long_sequences("windowed"),
        seeds=(0, 1, 2, 3, 4),
        differences={data: (f"{data}/dense", f"{data}/windowed") for data in ("watch", "av_mnist")},
    ),
    # One epoch, to see that it works.
    "quick": Suite({"one epoch": [Variant("watch", "", {"train.epochs": 1})]}, seeds=(0,)),
}
