"""The README's example runs as it stands."""

import pathlib
import re

import jax.numpy as jnp

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_example_runs_and_is_short():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(code.splitlines()) < 20
    names = {}
    exec(compile(code, str(README), "exec"), names)
    assert names["logits"].shape == (8, 10)
    assert jnp.isfinite(names["logits"]).all()
    # The first example has no sound, so leaving the sound out must be the same.
    assert jnp.allclose(names["logits"][0], names["image_only"][0], atol=1e-5)
    assert not jnp.allclose(names["logits"][7], names["image_only"][7], atol=1e-3)
