"""Behaviour of what runs beside the programs of a training: input, loop, selection and evaluation.

Three small experiments on made-up data are trained and tested as rows of the study. They have
single-label examples with several budgets, stays in three folds, and tags with several strides.
Their results tell whether edited code still takes the same steps on the same batches, keeps the
same checkpoints and computes the same metrics.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from benchmarks.mock_data import hapt_texts, physionet_archives
from benchmarks.study.rows import train_row
from benchmarks.study.sets import StudyRow
from benchmarks.variant import Variant

_DIGITS = 3  # Machines differ in the seventh.
_MODELS_OWN = {"flops", "parameters", "tokens"}  # Which other digests cover.
_SMALL = {
    **{"model.width": 8, "model.k": 1, "model.num_heads": 2, "model.n_pre": 1, "model.n_post": 1},
    **{"train.epochs": 3, "train.batch_size": 8, "train.log_every_steps": 2},
}
_PLAIN = {"mixup.layers": "none", "model.pool": "max"}  # Compile faster.
_MATCHING = {
    **{"data.events": 1, "data.length": 4, "data.train_examples": 36},
    **{"data.valid_examples": 20, "data.test_examples": 20},
}
_HAPT = {
    **{"data.window_seconds": 4.0, "data.stride_seconds": 4.0},
    **{"data.patch_size": 5, "train.elastic_patch": (1, 2), **_PLAIN},
}
_EXPERIMENTS: Mapping[str, tuple[Mapping[str, Any], StudyRow]] = {
    "matching": (_MATCHING, StudyRow(budgets=(0, 1))),
    "physionet2012": ({"data.folds": 3, **_PLAIN}, StudyRow(rates=(1.0,))),
    "hapt": (_HAPT, StudyRow(rates=(1.0,), strides=(1, 2))),
}


def results() -> dict[str, Any]:
    """Results of the small experiments by name, with rounded numbers; takes four minutes."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        hapt_texts.write(folder / "raw" / "hapt", samples=1200)
        physionet_archives.write(folder / "raw" / "physionet2012", stays=40)
        found = {}
        for config, (changes, row) in _EXPERIMENTS.items():
            own = {**_SMALL, **changes, "data.data_dir": str(folder / "data")}
            experiment = Variant(config, "", own).experiment(str(folder / "raw" / config))
            found[config] = _rounded(train_row(experiment, row, (0, 1), folder / config))
        return found


def _rounded(value: Any) -> Any:
    """The JSON value with rounded numbers, and without what belongs to the model."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: _rounded(own) for name, own in value.items() if name not in _MODELS_OWN}
    return [_rounded(own) for own in value] if isinstance(value, list) else value
