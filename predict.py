"""Predicts examples without labels; `sft_jax.commands.predict` has the flags."""

from sft_jax.commands import predict

if __name__ == "__main__":
    predict.run()
