"""Trains the model of a config; `sft_jax.commands.train` has the flags."""

from sft_jax.commands import train

if __name__ == "__main__":
    train.run()
