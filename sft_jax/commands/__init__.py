"""The commands `sft-train`, `sft-eval` and `sft-predict`, also as train.py, eval.py and predict.py.

Each module has `define_flags`, `main` and `run`.
"""
