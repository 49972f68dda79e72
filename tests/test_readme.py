"""The README's examples run as they stand."""

import pathlib
import re

import fake_torch
import jax.numpy as jnp
import numpy as np
import reference

README = pathlib.Path(__file__).parents[1] / "README.md"
FIRST, CHECKPOINT = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_example_runs_and_is_short():
    assert len(FIRST.splitlines()) < 20
    names = {}
    exec(compile(FIRST, str(README), "exec"), names)
    assert names["logits"].shape == (8, 10)
    assert jnp.isfinite(names["logits"]).all()
    # The first example has no sound, so leaving the sound out must be the same.
    assert jnp.allclose(names["logits"][0], names["image_only"][0], atol=1e-5)
    assert not jnp.allclose(names["logits"][7], names["image_only"][7], atol=1e-3)


def test_the_example_with_a_checkpoint_gives_the_authors_logits(monkeypatch, tmp_path):
    arrays, config = reference.load("sft_kspad_max")
    of_theirs = {"rgb": "vision", "spec": "audio", "text": "text"}
    model = reference.sft_model(config)
    names = {
        "model": model.clone(
            modalities={of_theirs[slot]: spec for slot, spec in model.modalities.items()},
            reference_windows={of_theirs[n]: w for n, w in model.reference_windows.items()},
        ),
        "inputs": {name: arrays[f"in/{slot}"] for slot, name in of_theirs.items()},
    }
    tensors = reference.under(arrays, "param/").items()
    fake_torch.install(monkeypatch, {name: fake_torch.Tensor(array) for name, array in tensors})
    (tmp_path / "sft.pth").touch()
    monkeypatch.chdir(tmp_path)
    exec(compile(CHECKPOINT, str(README), "exec"), names)
    np.testing.assert_allclose(names["logits"], arrays["f64/logits"], rtol=1e-5, atol=1e-5)
