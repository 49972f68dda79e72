"""Evaluates a run; `sft_jax.commands.evaluate` has the flags."""

from sft_jax.commands import evaluate

if __name__ == "__main__":
    evaluate.run()
