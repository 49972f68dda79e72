"""Training that drops blocks."""

import contextlib

import numpy as np
import pytest
import synthetic

pytestmark = pytest.mark.process

# 50 examples in batches of 25 over 2 epochs: 4 steps.
DROPPING = {"model__name": "mbt", "model__layer_drop": 0.4, "train__batch_size": 25}


def test_a_killed_run_goes_on_with_the_same_draws(tmp_path):
    config = synthetic.config(**DROPPING)
    result, _ = synthetic.run(tmp_path / "unbroken", config)
    with contextlib.suppress(synthetic.Killed):
        synthetic.run(tmp_path / "killed", config, wrap=synthetic.ending_after(3))
    resumed, _ = synthetic.run(tmp_path / "killed", config)
    assert result.train_compiles == 1
    losses = synthetic.training_losses(tmp_path / "unbroken")
    assert np.isfinite(losses).all()
    assert synthetic.training_losses(tmp_path / "killed") == losses
    assert synthetic.fingerprint(resumed.state) == synthetic.fingerprint(result.state)
