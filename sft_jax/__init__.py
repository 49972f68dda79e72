"""Sparse Fusion Transformers for multimodal classification, in JAX and Flax."""

from sft_jax.modules.mbt import BottleneckTransformer
from sft_jax.modules.mult import CrossmodalTransformer
from sft_jax.modules.sft import SparseFusionTransformer
from sft_jax.modules.simple_fusion import ConcatFusion, LateFusion, Unimodal
from sft_jax.ops.attention.block_sparse import BlockSparsePattern
from sft_jax.ops.attention.windowed import WindowPattern
from sft_jax.ops.pool.windows import ReferenceWindows
from sft_jax.structs import Batch, ModalitySpec, Tokens
from sft_jax.version import __version__

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
]
