"""Table of the study: the datasets, and the rows of each.

Pools, saliencies, depths and readouts are compared in `benchmarks.diagnosis`, where tokens matter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.variant import Variant

SFT = "sft"
"""Name of the row that all others are compared with."""
CLS_ALONE = "k=0"
"""Name of the row without pooled tokens, which all others are compared with too."""

RATES = (0.5, 1.0, 2.0)
"""Factors of the learning rate that each row is tuned over, by validation with the first seed."""
PARTS = ("rows", "why", "cost")
"""Parts of the study: accuracies, corrupted modalities and tokens left out, time and memory."""

_ONE_RATE = (1.0,)
_WINDOWED = {"model.unimodal_attention": "windowed", "model.pre_pooling_attention": "windowed"}


class StudyRow(NamedTuple):
    """Experiments of a row.

    Attributes:
      changes: Changed fields of the config of the set, by their dotted name.
      rates: Factors of the learning rate to choose from.
      budgets: Numbers of kept tokens that the runs are evaluated with as well.
      strides: Strides that they are evaluated with as well.
      depths: Numbers of blocks that they are evaluated with as well.
    """

    changes: Mapping[str, Any] = {}
    rates: Sequence[float] = RATES
    budgets: Sequence[int] = ()
    strides: Sequence[int] = ()
    depths: Sequence[int] = ()


class StudySet(NamedTuple):
    """Dataset with its rows.

    Attributes:
      title: Name in tables and pictures.
      base: Config that all rows change.
      metric: Metric of the test split that rows are compared by.
      rows: Rows by name; `SFT` is among them.
      minutes: Rough duration on one CPU core.
      classical: Models of `benchmarks.classical.METHODS`, which are rows too.
      parts: Those of `PARTS` that are measured.
      shown: Whether examples are shown; the licences of other sets restrict passing them on.
    """

    title: str
    base: Variant
    metric: str
    rows: Mapping[str, StudyRow]
    minutes: int
    classical: Sequence[str] = ("logistic regression", "random forest", "gradient boosting")
    parts: Sequence[str] = PARTS
    shown: bool = False

    @property
    def scope(self) -> str:
        """Code that can change the figures (`benchmarks.freshness.PARTS`)."""
        own = "benchmarks/study/rows.py benchmarks/study/classical_rows.py"
        return f"accuracy {self.base.config} {own} benchmarks/classical*.py"

    def definition(self, name: str) -> Any:
        """Experiment of a row, as JSON values; of a classical model the data alone."""
        row = self.rows[name]._asdict() if name in self.rows else {}
        values = {"base": self.base._asdict(), "metric": self.metric, **row}
        return json.loads(json.dumps(values, default=list))


def controls(
    modalities: Sequence[str], depth: int = 4, k: int = 4, other: str = "max"
) -> dict[str, StudyRow]:
    """Rows of every set: SFT, SFT with other tokens or none, and the other models.

    Args:
      modalities: Names of the modalities, each classified alone too.
      depth: Number of blocks of MBT, which one row is trained to leave out.
      k: Number of kept tokens of the rows that keep some.
      other: Another pool than that of the config.
    """
    changes: dict[str, dict[str, Any]] = {
        SFT: {"model.k": k},
        CLS_ALONE: {"model.k": 0},
        f"{other}, k={k}": {"model.k": k, "model.pool": other},
        "random tokens": {"model.k": k, "model.pool": "random"},
        "all tokens": {"model.pool": "none"},
        **{
            f"{name} alone": {"model.name": "unimodal", "model.modality": name}
            for name in modalities
        },
        **{name: {"model.name": name} for name in ("concat", "late", "mbt", "mult")},
    }
    rows = {name: StudyRow(own) for name, own in changes.items()}
    dropped = {"model.name": "mbt", "model.layer_drop": 0.2}
    rows["mbt, any depth"] = StudyRow(dropped, depths=range(1, depth + 1))
    return rows


def budgets(numbers: Sequence[int], k: int = 4) -> dict[str, StudyRow]:
    """Rows of other numbers of kept tokens, and of one model for all of them.

    Args:
      numbers: Numbers of kept tokens, 0 and `k` among them.
      k: Number that the elastic model is validated with.
    """
    rows = {
        f"k={number}": StudyRow({"model.k": number}, _ONE_RATE)
        for number in numbers
        if number not in (0, k)
    }
    elastic = {"model.k": k, "train.elastic_k": tuple(numbers)}
    return rows | {"any k": StudyRow(elastic, _ONE_RATE, budgets=numbers)}


def saliencies(k: int = 4, pool: str = "attn_topk") -> dict[str, StudyRow]:
    """Rows of a pool that selects by another saliency than the paper's.

    Args:
      k: Number of kept tokens.
      pool: Pool that selects by saliency.
    """
    names = ("from_cls", "learned")
    fields = {"model.k": k, "model.pool": pool}
    return {f"saliency={name}": StudyRow({**fields, "model.saliency": name}) for name in names}


def patches(sizes: Sequence[int]) -> dict[str, StudyRow]:
    """Rows of other patch sizes, and of one model for all of them.

    Args:
      sizes: Steps of a patch, each a multiple of the first.
    """
    strides = tuple(size // sizes[0] for size in sizes)
    rows = {f"patch={n}": StudyRow({"data.patch_size": n}, _ONE_RATE) for n in sizes}
    elastic = {"data.patch_size": sizes[0], "train.elastic_patch": strides}
    return rows | {"any patch": StudyRow(elastic, _ONE_RATE, strides=strides)}


def _smartwatch(title: str, argument: str, changes: Mapping[str, Any], minutes: int) -> StudySet:
    """SFT on the smartwatch beside classical models; its cost is that of other sets."""
    base, rows = Variant("watch", argument, changes), {SFT: StudyRow({}, _ONE_RATE)}
    classical = ("logistic regression", "random forest")
    return StudySet(f"smartwatch, {title}", base, "accuracy", rows, minutes, classical, ("rows",))


_STAY = ("labs", "static", "statistics", "vitals")
_MOTION = ("accelerometer", "gyroscope")
_SUMMARIES = tuple(f"{name}_summary" for name in _MOTION)


# Every sample of a window of ten seconds is a token. Windows overlap less, so that there are fewer.
_LONG = {
    "data.window_seconds": 10.0,
    "data.stride_seconds": 2.5,
    "data.patch_size": 1,
    "train.epochs": 10,
}
# A step of dense fusion takes seconds here, so no rate is tuned, and MulT is left out.
_LONG_ROWS = {
    name: StudyRow(changes, _ONE_RATE)
    for name, changes in {
        SFT: _WINDOWED,
        CLS_ALONE: {**_WINDOWED, "model.k": 0},
        "random tokens": {**_WINDOWED, "model.pool": "random"},
        "no windows": {},
        **{name: {"model.name": name} for name in ("concat", "mbt")},
        "patch=10": {"data.patch_size": 10},
        "patch=10, 30 epochs": {"data.patch_size": 10, "train.epochs": 30},
    }.items()
}

# On half of the config's pairs, 8 epochs end before the best, and 24 far behind it.
_BLANKED = {"train.epochs": 12, "optim.lr": 0.004}

SETS: Mapping[str, StudySet] = {
    "watch": StudySet(
        "smartwatch, 4 s",
        Variant("watch"),
        "accuracy",
        controls((*_MOTION, *_SUMMARIES))
        | saliencies()
        | budgets((0, 1, 2, 4, 8, 20))
        | patches((2, 4, 8)),
        120,
        shown=True,
    ),
    "watch_series": _smartwatch("without statistics", "summaries=0", {}, 10),
    # Each of ten people is left out in turn.
    "watch_people": _smartwatch("each person left out", "", {"data.folds": 10}, 60),
    "watch_people_series": _smartwatch(
        "each person left out, without statistics", "summaries=0", {"data.folds": 10}, 50
    ),
    "watch_long": StudySet(
        "smartwatch, 10 s", Variant("watch", "", _LONG), "accuracy", _LONG_ROWS, 200
    ),
    "av_mnist": StudySet(
        "AV-MNIST, 3/4 blanked",
        Variant("av_mnist", "blanked_share=0.75,train_pairs=4000", _BLANKED),
        "accuracy",
        controls(("image", "sound")) | saliencies() | budgets((0, 1, 4, 16)),
        260,
    ),
    "hapt": StudySet(
        "HAPT, tags of 30 s",
        Variant("hapt"),
        "macro_average_precision",
        controls(_MOTION) | saliencies() | budgets((0, 1, 4, 16)),
        270,
        ("logistic regression", "gradient boosting"),
    ),
    "physionet2012": StudySet(
        "PhysioNet 2012",
        Variant("physionet2012"),
        "roc_auc",
        controls(_STAY, depth=2, other="attn_topk") | saliencies() | budgets((0, 1, 4, 16)),
        330,
        ("logistic regression", "gradient boosting"),
    ),
}
