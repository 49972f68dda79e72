"""Exports a trained model; `sft_jax.commands.export` has the flags."""

from sft_jax.commands import export

if __name__ == "__main__":
    export.run()
