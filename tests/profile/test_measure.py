"""Costs of models: counted, measured in a process of their own, printed and drawn."""

import dataclasses
import io
import json
import math

import jax
import numpy as np
import pytest
import synthetic
from rich.console import Console

from sft_jax.config import ModelConfig
from sft_jax.data.outline import Outline
from sft_jax.parallel import sharding
from sft_jax.profile import measure, process_memory, tables
from sft_jax.profile.flops import STAGES

OUTLINE = Outline(synthetic.MODALITIES, len(synthetic.CLASSES), "single_label")
CONFIG = synthetic.config()


def _counted(*names):
    return {
        name: measure.count(
            dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, name=name)), OUTLINE
        )
        for name in names
    }


def test_counts_of_stages_add_up():
    for row in _counted("sft", "mbt").values():
        assert [*row["stage_flops"]] == [*row["stage_elementwise_flops"]] == [*STAGES]
        assert sum(row["stage_flops"].values()) == row["forward_flops"] > 0
        assert sum(row["stage_elementwise_flops"].values()) == row["forward_elementwise_flops"] > 0
        assert json.loads(json.dumps(row)) == row


def test_a_model_that_does_not_fit_the_data_is_refused():
    config = dataclasses.replace(CONFIG, model=ModelConfig(name="sft", k=13))
    with pytest.raises(ValueError, match="k=13 for modality 'sight', which has 6 tokens"):
        measure.count(config, OUTLINE)


@pytest.fixture(scope="module")
def measured():
    return measure.measure(CONFIG, OUTLINE, batch_sizes=[3], steps=2)


@pytest.mark.process
def test_a_model_is_measured(measured):
    assert tuple(measured) == measure.MEASURED
    assert json.loads(json.dumps(measured)) == measured
    assert measured["device"].startswith("cpu")
    assert [*measured["examples_per_second"]] == ["1", "3"]
    assert measured["train_peak_device_bytes"] is None
    numbers = [v for v in measured.values() if isinstance(v, int | float)]
    assert len(numbers) == len(measure.MEASURED) - 3
    assert all(math.isfinite(number) and number >= 0 for number in numbers)
    assert measured["train_temp_bytes"] > 0
    assert measured["idle_rss_bytes"] > 10 * 2**20
    rate = measured["examples_per_second"]["1"] * measured["latency_seconds"]
    assert rate == pytest.approx(1)


def test_the_error_of_a_failed_process_names_the_model(monkeypatch):
    def fail(*_, **__):
        raise ChildProcessError("ended with status -9")

    monkeypatch.setattr(measure, "run_isolated", fail)
    with pytest.raises(ChildProcessError, match="measuring sft: ended with status -9"):
        measure.measure(CONFIG, OUTLINE, batch_sizes=[], steps=1)


def test_the_peak_of_memory_is_measured():
    with process_memory.growth() as idle:
        pass
    if idle.peak_bytes is None:
        pytest.skip("this system can't reset the peak")
    assert idle.peak_bytes < 4 * 2**20  # The kernel's counters differ a little between cores.
    with process_memory.growth() as memory:
        np.ones(2**25 // 8).sum()
    assert memory.peak_bytes > 0.8 * 2**25
    process_memory.settle()
    assert process_memory.resident_bytes() < process_memory.peak_bytes() - 0.5 * 2**25


@pytest.mark.parametrize("task", ["single_label", "ordinal", "multi_label", "regression"])
def test_examples_fit_every_task(task):
    outline = OUTLINE._replace(task=task)
    batch = measure.random_batch(outline, 4, sharding.make_mesh(devices=jax.devices()[:1]))
    one_class = task in ("single_label", "ordinal")
    assert batch.labels.shape == ((4,) if one_class else (4, 3))
    assert np.issubdtype(batch.labels.dtype, np.integer if one_class else np.floating)
    assert all(mask.all() for mask in batch.masks.values())


@pytest.mark.process
def test_the_table_has_a_column_for_each_model(measured):
    models = {name: row | measured for name, row in _counted("sft", "late").items()}
    lines = _printed(models)
    assert next(line.split() for line in lines if line.strip()) == ["sft", "late"]
    (row,) = [line for line in lines if "unimodal" in line]
    flops = [f"{costs['stage_flops']['unimodal'] / 1e6:.2f}" for costs in models.values()]
    assert row.split()[1:] == flops
    assert len([line for line in lines if "pre_pooling" in line]) == 1
    assert any("compiling s" in line for line in lines)
    assert not any("device MiB" in line for line in lines)
    # Models that were only counted have no rows of measurements.
    assert not any("compiling" in line for line in _printed(_counted("sft")))


def _printed(models):
    text = io.StringIO()
    tables.print_costs(Console(file=text, width=80), models)
    return text.getvalue().splitlines()


def test_a_picture_is_drawn(tmp_path):
    models = _counted("sft", "late")
    tables.draw_costs(tmp_path / "cost.png", models, title="tiny")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
