"""Sparse Fusion Transformers for multimodal classification, in JAX and Flax."""

from sft_jax.modules.sft import SparseFusionTransformer
from sft_jax.ops.windows import ReferenceWindows
from sft_jax.structs import Batch, ModalitySpec, Tokens
from sft_jax.version import __version__

__all__ = [
    "Batch",
    "ModalitySpec",
    "ReferenceWindows",
    "SparseFusionTransformer",
    "Tokens",
    "__version__",
]
