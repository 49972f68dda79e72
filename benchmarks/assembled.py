"""Programs of an experiment on the first device."""

from __future__ import annotations

import jax
from jax.sharding import Mesh

from sft_jax.config import ExperimentConfig
from sft_jax.data.dataset import DatasetInfo
from sft_jax.parallel import sharding
from sft_jax.training import assembly


def assemble(config: ExperimentConfig, info: DatasetInfo) -> tuple[assembly.Assembled, Mesh]:
    """Makes all parts that training on a dataset needs, and the mesh of the first device.

    Args:
      config: Experiment.
      info: Description of the dataset.
    """
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    assembled = assembly.assemble_model(
        config,
        info.modalities,
        len(info.class_names),
        num_examples=info.num_examples["train"],
        mesh=mesh,
    )
    return assembled, mesh
