"""Sparse Fusion Transformers for multimodal classification, in JAX and Flax."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sft_jax.modules.mbt import BottleneckTransformer
from sft_jax.modules.mult import CrossmodalTransformer
from sft_jax.modules.sft import SparseFusionTransformer
from sft_jax.modules.simple_fusion import ConcatFusion, LateFusion, Unimodal
from sft_jax.ops.attention.block_sparse import BlockSparsePattern
from sft_jax.ops.attention.windowed import WindowPattern
from sft_jax.ops.pool.windows import ReferenceWindows
from sft_jax.structs import Batch, ModalitySpec, Tokens
from sft_jax.version import __version__

if TYPE_CHECKING:
    from sft_jax.inference.classifier import Classifier

__all__ = [
    "Batch",
    "BlockSparsePattern",
    "BottleneckTransformer",
    "ConcatFusion",
    "CrossmodalTransformer",
    "LateFusion",
    "ModalitySpec",
    "ReferenceWindows",
    "SparseFusionTransformer",
    "Tokens",
    "Unimodal",
    "WindowPattern",
    "__version__",
    "load",
]


def load(workdir: str | os.PathLike[str], checkpoint: str | int = "best") -> Classifier:
    """Loads the classifier of a run, from nothing but the files of its directory.

    Neither the data nor its folder is needed, and the run may have moved. The parameters are the
    running mean where one was trained. This needs the packages of the extra `predict`, which
    `train` has too; for an exported folder those of `safetensors`, and from the hub of `hub`.

    Args:
      workdir: Run directory; or a folder that `export.py --format=safetensors` wrote. Both may be
        `gs://BUCKET/FOLDER`. A text `OWNER/NAME` or `OWNER/NAME@REVISION`, if there is no such
        folder, is a repository of the Hugging Face hub that holds an exported folder.
      checkpoint: Name of the checkpoint: best, latest, or a step.

    Raises:
      ExportedFileError: If an exported folder is damaged, or of another version.
      RunDirectoryError: If the folder is not a run directory, or holds the runs of several seeds.
        Also if a repository can't be read.
      NoCheckpointError: If there is no such checkpoint; names the existing ones.
      DamagedCheckpointError: If it is damaged, and there is none to take in its place.
      ValueError: If the config or the description of the data can't be read.
      ModuleNotFoundError: If a package of the extra is not installed.
    """
    try:
        from sft_jax.inference import loading
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"sft_jax.load needs the package {error.name!r}: pip install 'sft_jax[predict]'"
        ) from error
    return loading.load(workdir, checkpoint)
