"""Flax modules: the models and their parts."""

from collections.abc import Mapping

MODELS: Mapping[str, str] = {
    "sft": "sft_jax.modules.sft:SparseFusionTransformer",
    "late": "sft_jax.modules.simple_fusion:LateFusion",
    "concat": "sft_jax.modules.simple_fusion:ConcatFusion",
    "unimodal": "sft_jax.modules.simple_fusion:Unimodal",
    "mbt": "sft_jax.modules.mbt:BottleneckTransformer",
    "mult": "sft_jax.modules.mult:CrossmodalTransformer",
}
"""Import path of each model by its name in a config."""

TOKENIZERS: Mapping[str, str] = {"conv": "sft_jax.modules.conv_stem:ConvStem"}
"""Import path of each tokenizer by its name in a config, made with the sizes of its patches."""
