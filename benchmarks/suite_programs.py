"""Fingerprints of suites that measure time and memory on made-up examples.

Their figures can change with the programs that they run, and with the source that measures them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

import jax

from benchmarks import against_torch, compilation, elastic_step, fingerprint, growth, throughput
from benchmarks.fingerprint import Parts
from benchmarks.study.rows import experiment_of
from benchmarks.study.sets import SETS, StudyRow
from benchmarks.suites import PROFILED, SUITES
from benchmarks.variant import Variant
from sft_jax.config import ExperimentConfig
from sft_jax.data.outline import outline
from sft_jax.parallel import sharding
from sft_jax.profile.measure import random_batch
from sft_jax.training import assembly

_LENGTHS = (256, 1024, 4096)  # Tokens of `growth`.


def fingerprint_of(name: str, manual_dir: str) -> Parts:
    """Fingerprint of a suite: `programs`, and `source`, what measures.

    Args:
      name: Name in `PROGRAMS`.
      manual_dir: Folder with raw files.
    """

    def programs() -> str:
        return fingerprint.digest(text.encode() for text in PROGRAMS[name](manual_dir))

    own = [word for word in SUITES[name].scope.split() if "/" in word]
    words = ["sft_jax/profile/", *own, *(["data"] if name == "throughput" else [])]
    return {"programs": programs, "source": functools.partial(fingerprint.source, " ".join(words))}


def _lowered(config: ExperimentConfig) -> Iterator[str]:
    """StableHLO of the programs of an experiment, without its data where that is possible."""
    data, size = outline(config.data), config.train.batch_size
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    assembled = assembly.assemble_model(
        config, data.modalities, data.num_outputs, num_examples=1000 * size, mesh=mesh
    )
    batch = random_batch(data, size, mesh)
    yield from fingerprint.lowered_programs(config, StudyRow(), assembled, batch, mesh)


def _profile(name: str, manual_dir: str) -> Iterator[str]:
    for model in PROFILED:
        yield from _lowered(Variant(name, "", {"model.name": model}).experiment(manual_dir))


def _growth(manual_dir: str) -> Iterator[str]:
    del manual_dir  # It reads no files.
    for kind in growth.KINDS:
        for length in _LENGTHS:
            yield growth.lower(kind, length)[0].as_text()


def _compilation(manual_dir: str) -> Iterator[str]:
    defaults = compilation.parser().parse_args(["--json="])
    yield from _lowered(Variant(defaults.dataset, defaults.argument).experiment(manual_dir))


def _throughput(manual_dir: str) -> Iterator[str]:
    for name in throughput.DATA:
        yield from _lowered(Variant(name).experiment(manual_dir))


def _elastic_step(manual_dir: str) -> Iterator[str]:
    for key, elastic, others in elastic_step.TIMED.values():
        one = SETS[key]
        for name in (elastic, *others):
            yield from _lowered(experiment_of(one.base, one.rows[name], manual_dir))


def _against_torch(manual_dir: str) -> Iterator[str]:
    for name in against_torch.DATASETS:
        for fields in against_torch.VARIANTS.values():
            changes = {f"model.{field}": value for field, value in fields.items()}
            yield from _lowered(Variant(name, "mixup=none", changes).experiment(manual_dir))


PROGRAMS: Mapping[str, Callable[[str], Iterator[str]]] = {
    "profile_vggsound": functools.partial(_profile, "vggsound"),
    "profile_mosei": functools.partial(_profile, "mosei"),
    "growth": _growth,
    "compilation": _compilation,
    "throughput": _throughput,
    "elastic_step": _elastic_step,
    "against_torch": _against_torch,
}
"""Function of each suite from the folder with raw files to the StableHLO of its programs."""
