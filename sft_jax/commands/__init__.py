"""The commands `sft-train`, `sft-eval`, `sft-predict` and `sft-export`, also as train.py and so on.

Each module has `define_flags`, `main` and `run`.
"""
