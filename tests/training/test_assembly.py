import math
from fractions import Fraction

import jax
import pytest
import synthetic

from sft_jax.parallel import sharding
from sft_jax.training import assembly
from sft_jax.training.assembly import Plan


@pytest.mark.parametrize(
    ("examples", "batch", "epochs", "every"),
    # All except the last end an epoch's batches exactly; floats would take one step too many.
    [(100, 24, 30, 30), (776, 24, 30, 10), (16326, 30, 15, 5), (49, 20, 100, 20), (50, 8, 3, 2)],
)
def test_steps_are_counted_in_integers(examples, batch, epochs, every):
    config = synthetic.config(
        train__batch_size=batch,
        train__epochs=epochs,
        train__evaluate_every_epochs=every,
        mixup__layers="any",
        mixup__warmup_epochs=float(epochs),
    )
    plan = Plan.from_config(config, examples)
    ends = {-(-epoch * examples // batch) for epoch in (*range(every, epochs + 1, every), epochs)}
    assert plan.steps_per_epoch == Fraction(examples, batch)
    assert (plan.total_steps, plan.mixup_from) == (max(ends), max(ends))
    assert plan.evaluate_at == ends


def test_a_tenth_of_an_epoch_is_a_tenth():
    # In floats 0.1 * 30 is 3 and 1.1 * 10 is 11 and one bit.
    for epochs, steps in ((0.1, 3), (1.1, 33), (0.7, 21), (1 / 3, 10)):
        plan = Plan.from_config(
            synthetic.config(train__batch_size=1, mixup__warmup_epochs=epochs), num_examples=30
        )
        assert plan.mixup_from == steps, math.ceil(epochs * 30)


@pytest.mark.parametrize(("warmup", "words"), [(2.0, ["mixes nothing"]), (1.0, [])])
def test_mixup_that_never_begins_is_reported(caplog, warmup, words):
    config = synthetic.config(
        train__epochs=2, mixup__layers="any", mixup__warmup_epochs=warmup, train__batch_size=8
    )
    info, mesh = synthetic.dataset().info, sharding.make_mesh(devices=jax.devices()[:1])
    assembly.assemble_model(
        config, info.modalities, len(info.class_names), num_examples=100, mesh=mesh
    )
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))
