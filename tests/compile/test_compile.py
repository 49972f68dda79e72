"""Steps compiled from shapes are those of training; their reports, estimates and advice."""

import collections
import dataclasses
import io
import re

import jax
import jax.numpy as jnp
import pytest
import synthetic
from rich.console import Console

from sft_jax import config_io, doctor
from sft_jax.compile import __main__ as command
from sft_jax.compile import hlo, report, steps
from sft_jax.compile.topology import CHIPS, Topology
from sft_jax.config import MeshConfig
from sft_jax.data.outline import Outline
from sft_jax.ops.attention.tiled import tiled_self_attention
from sft_jax.parallel import sharding
from sft_jax.profile.measure import random_batch
from sft_jax.training import assembly

SLICE = Topology.named("v5e-4")
CHIP = SLICE.chip


def outline(task="single_label"):
    names = synthetic.NAMES[task]
    return Outline(synthetic.MODALITIES, len(names), task)


def mesh_of(config, number):
    return sharding.make_mesh(config.mesh, jax.devices()[:number])


@pytest.fixture(scope="module")
def config():
    return synthetic.config(mesh=MeshConfig(fsdp=2), mixup__layers="any", mixup__warmup_epochs=0.0)


@pytest.fixture(scope="module")
def reports(config):
    # Simulated devices take the place of the slice's.
    return steps.compile_steps(SLICE, config, outline(), mesh_of(config, 4))


@pytest.mark.parametrize("task", ["single_label", "ordinal", "multi_label", "regression"])
def test_shapes_are_those_of_a_batch(task):
    mesh = sharding.make_mesh(devices=jax.devices()[:2])
    shapes, batch = steps.batch_shapes(outline(task), 4, mesh), random_batch(outline(task), 4, mesh)
    assert jax.tree.map(lambda a: (a.shape, a.dtype, a.sharding), shapes) == jax.tree.map(
        lambda a: (a.shape, a.dtype, a.sharding), batch
    )


@pytest.mark.process
def test_the_step_is_that_of_training(config):
    mesh = mesh_of(config, 2)
    made = steps.programs(config, outline(), mesh)
    assembled = assembly.assemble_model(
        config, synthetic.MODALITIES, 3, num_examples=800, mesh=mesh
    )
    shapes = steps.train_shapes(made, config, outline(), mesh)
    ours, theirs = (
        re.sub(" at 0x[0-9a-f]+", "", str(step.trace(*shapes).jaxpr))
        for step in (made.steps[1], assembled.step)
    )
    assert ours == theirs
    assert assembled.step.lower(*shapes[:3])


@pytest.mark.process
def test_a_report_has_memory_collectives_and_an_estimate(config, reports):
    training, evaluation = reports["training"], reports["evaluation"]
    for one in reports.values():
        assert tuple(one.memory) == report.MEMORY
        assert 0 < one.peak_bytes == sum(one.memory.values())
        assert one.kernels > 0
        assert one.seconds["step"] == one.seconds["compiler"] + one.seconds["collectives"]
    assert training.model_flops == 3 * evaluation.model_flops
    assert training.memory["temporaries"] > evaluation.memory["temporaries"]
    batch = random_batch(outline(), config.train.batch_size, mesh_of(config, 4))
    inputs = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(batch))
    assert training.memory["batches ahead"] == config.system.batches_ahead * inputs > 0
    assert evaluation.memory["batches ahead"] == 0
    assert training.collectives["all-reduce"][1] > 0


@pytest.mark.process
def test_the_table_has_a_column_for_each_step(reports):
    text = io.StringIO()
    command.print_reports(Console(file=text, width=80), reports, SLICE)
    lines = [line for line in text.getvalue().splitlines() if line.strip()]
    assert lines[0].split() == ["of", "one", "device", "training", "step", "evaluation", "step"]
    assert any("estimate of the step, ms" in line for line in lines)
    assert f"{CHIP.memory_bytes / 2**20:,.0f} MiB" in text.getvalue()


def test_a_step_that_does_not_fit_is_refused_with_its_size(monkeypatch):
    monkeypatch.setitem(CHIPS, "v5e", dataclasses.replace(CHIP, memory_bytes=2**10))
    lowered = jax.jit(jnp.sum).lower(jax.ShapeDtypeStruct((2**28,), jnp.float32))
    with pytest.raises(report.OutOfMemoryError, match=r"1\.00 GiB on each device, which has 0\.00"):
        report.compile_step(lowered, SLICE, 1.0, 4)


def test_memory_that_the_compiler_reports_is_read():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO"
        " temporaries (375.93G) exceeds available HBM (15.75G)."
    )

    class Lowered:
        def compile(self, **_):
            raise jax.errors.JaxRuntimeError(message)

    with pytest.raises(report.OutOfMemoryError) as caught:
        report.compile_step(Lowered(), SLICE, 1.0, 4)
    assert caught.value.needed_bytes == 375.93 * 2**30


def test_what_bounds_a_step_is_named():
    reduction = hlo.Collective("all-reduce", 3, 1000, "f32[250]", 4)
    counts = hlo.Counts(10, 8.19e9, 3e9, {"1": reduction})
    seconds = report.estimate(counts, 1.97e12, CHIP)
    assert seconds["memory"] == seconds["products"] == pytest.approx(0.01)
    # A ring sends twice three quarters of the array.
    assert seconds["collectives"] == pytest.approx(
        3 * 2 * 0.75 * 1000 / CHIP.interconnect_bytes_per_second
    )
    assert seconds["step"] == pytest.approx(2 + seconds["collectives"])
    one = report.Report(1.0, {}, 0, 10, 1.97e12, 8.19e9, {}, seconds, 4)
    assert one.bound == "vector work"
    on_gpu = report.estimate(counts, 1.97e12, CHIPS["h100"])
    assert on_gpu["launches"] == 10 * report.LAUNCH_SECONDS
    assert dataclasses.replace(one, seconds=on_gpu).bound == "memory"
    # The result of a scatter is a quarter of what the ring sends.
    scatter = reduction._replace(kind="reduce-scatter", times=1)
    counts = dataclasses.replace(counts, collectives={"1": scatter})
    seconds = report.estimate(counts, 0.0, CHIP)
    assert seconds["collectives"] == pytest.approx(3000 / CHIP.interconnect_bytes_per_second)


def test_advice_names_flags_that_exist(config):
    mesh = mesh_of(dataclasses.replace(config, mesh=MeshConfig()), 2)
    hints = report.advice(3 * CHIP.memory_bytes, CHIP, config, mesh)
    assert [hint.split("=")[0] for hint in hints[:-1]] == [
        "--config.system.batches_ahead",
        "--config.train.accumulate",
        "--config.model.remat",
        "--config.model.dtype",
        "--config.mesh.fsdp",
        "--config.train.batch_size",
    ]
    mapping = config_io.to_json(config)
    for hint in hints[:-1]:
        section, field = hint.split("=")[0].removeprefix("--config.").split(".")
        assert field in mapping[section]
    assert hints[1].startswith("--config.train.accumulate=4:")


@pytest.mark.parametrize(
    ("name", "generation", "shape"),
    [
        ("v5e-1", "v5e", "1x1"),
        ("v5litepod-16", "v5e", "4x4"),
        ("v5p-8", "v5p", "2x2x1"),
        ("v6e-256", "v6e", "16x16"),
        ("H100-1", "h100", "1x1x1"),
    ],
)
def test_slices_have_the_names_of_accelerator_types(name, generation, shape):
    topology = Topology.named(name)
    assert (topology.generation, topology.shape) == (generation, shape)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e-3", "there is no such slice; allowed are v5e-1, v5e-4"),
        ("v5e", "there is no such slice"),
        ("h1000-1", "did you mean 'h100'"),
        ("tpu", "allowed here: h100, h200, v5e, v5p, v6e"),
    ],
)
def test_unknown_slices_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        Topology.named(name)


def test_the_doctor_reports_whether_the_steps_fit(config, monkeypatch):
    one = report.Report(1.0, {}, 2**20, 10, 1.0, 1.0, {}, {"step": 0.002}, 4)
    monkeypatch.setattr(Topology, "devices", lambda _: jax.devices()[:4])
    monkeypatch.setattr(doctor, "compile_steps", lambda *_: {"training": one})
    finding = doctor.check_topology("v5e-4", config)
    assert (finding.check, finding.problem) == ("fits v5e-4", "")
    assert finding.found == "1 of 16,384 MiB; a step takes 2 ms (estimate)"
    monkeypatch.setattr(doctor, "compile_steps", steps.compile_steps)
    batch = dataclasses.replace(config.train, batch_size=7)
    monkeypatch.setattr(doctor, "outline", lambda _: outline())
    finding = doctor.check_topology("v5e-4", dataclasses.replace(config, train=batch))
    assert "train.batch_size=7 must be a multiple" in finding.problem
    assert "no such slice" in doctor.check_topology("v5e-3", config).problem


def test_a_missing_compiler_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for name, extra in (("v5e-1", "tpu"), ("h100-1", "cuda")):
        with pytest.raises(ModuleNotFoundError, match=rf"pip install '\.\[train,{extra}\]'"):
            Topology.named(name).devices()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5e-4", "v6e-8", "v5p-8", "h100-1"])
def test_steps_are_compiled_for_devices_that_are_not_there(name, config):
    topology = Topology.named(name)
    pytest.importorskip("jax_cuda13_plugin" if name.startswith("h100") else "libtpu")
    mesh = sharding.make_mesh(MeshConfig(), topology.devices())
    reports = steps.compile_steps(topology, config, outline(), mesh)
    assert all(one.seconds["step"] > 0 for one in reports.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        *((name, {"tpu_custom_call": 2}) for name in ("v5e-4", "v6e-8", "v5p-8")),
        *((name, {"__gpu$xla.gpu.triton": 4}) for name in ("h100-1", "h200-8")),
    ],
)
def test_kernels_on_the_chip_are_compiled_and_divided(name, kernels):
    topology = Topology.named(name)
    pytest.importorskip("jax_cuda13_plugin" if name.startswith("h") else "libtpu")
    place = sharding.split_by_example(sharding.make_mesh(MeshConfig(), topology.devices()))
    shape = (8, 301, 4, 16)
    heads = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)] * 3
    mask = jax.ShapeDtypeStruct(shape[:2], bool, sharding=place)

    def loss(query, key, value, mask):
        attended, salient = tiled_self_attention(query, key, value, mask, chip=True)
        return jnp.square(attended).sum() + jnp.square(salient).sum()

    lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*heads, mask)
    program = lowered.compile(compiler_options=topology.compiler_options).as_text()
    assert collections.Counter(re.findall(r'custom_call_target="([^"]*)"', program)) == kernels
    assert not hlo.count(program).collectives
