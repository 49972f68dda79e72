"""Counts of programs, read from their text: loops, conditionals, collectives and layouts."""

import os
import pathlib

import jax
import jax.numpy as jnp
import pytest

from sft_jax.compile import hlo, schedules

TPU = """
HloModule jit_step, is_scheduled=true

%fused (p: f32[40,3,40]) -> f32[40,3,40] {
  %p = f32[40,3,40]{2,1,0:T(4,128)} parameter(0)
  ROOT %g = f32[80,3,40]{2,1,0} all-gather(%p), channel_id=7, replica_groups=mesh['b'=4] {'b'}
}

%body (t: (s32[], f32[8,100])) -> (s32[], f32[8,100]) {
  %t = (s32[], f32[8,100]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[8,100]{1,0:T(8,128)} get-tuple-element(%t), index=1
  %y = f32[8,100]{1,0:T(8,128)} add(%x, %x), backend_config={"estimated_cycles":"30"}
  %f = f32[80,3,40]{2,1,0:T(4,128)S(1)} fusion(%y), kind=kCustom, calls=%fused
  ROOT %r = (s32[], f32[8,100]{1,0:T(8,128)}) tuple(%i, %y)
}

%turns (t: (s32[], f32[8,100])) -> pred[] {
  %t = (s32[], f32[8,100]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:S(2)} get-tuple-element(%t), index=0
  %n = s32[]{:S(2)} constant(5)
  ROOT %less = pred[]{:S(2)} compare(%i, %n), direction=LT
}

%cheap (x: f32[8]) -> f32[8] {
  ROOT %x = f32[8]{0} parameter(0)
}

%dear (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %s = f32[8]{0} sine(%x), backend_config={"estimated_cycles":"1000"}
}

ENTRY %main (a: f32[8,100], b: f32[8], p: s32[]) -> f32[8,100] {
  %a = f32[8,100]{1,0:T(8,128)} parameter(0)
  %b = f32[8]{0} parameter(1)
  %p = s32[] parameter(2)
  %z = s32[] constant(0)
  %t = (s32[], f32[8,100]{1,0:T(8,128)}) tuple(%z, %a)
  %w = (s32[], f32[8,100]{1,0:T(8,128)}) while(%t), condition=%turns, body=%body
  %c = f32[8]{0} conditional(%p, %b, %b), branch_computations={%cheap, %dear}
  %s = (f32[16]{0}, f32[32]{0}) all-reduce-start(%b), channel_id=9, replica_groups={{0,1},{2,3}}
  %d = f32[16]{0} all-reduce-done(%s)
  ROOT %o = f32[8,100]{1,0:T(8,128)} get-tuple-element(%w), index=1
}
"""


GIVEN = """
ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %one = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call"
  ROOT %two = f32[8]{0} custom-call(%one), custom_call_target="tpu_custom_call"
}
"""

SCHEDULE = """
       0x2   :  { %1 = sphi 0 }
       0x1b LB: > { %2 = vld [vmem:[%3]] }
       0x1c   : > { %4 = vadd %2, %2 }
       0x1e   : > { %p5 = scmp.ge.s32.totalorder %2, 602 /* loop exit test */ }
       0x20   :  { %6 = vst }
"""


def test_kernels_that_the_compiler_is_given_have_the_cycles_of_their_schedules(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--own=1")
    schedules.request()
    own, to, *_ = os.environ["LIBTPU_INIT_ARGS"].split()
    folder = pathlib.Path(to.removeprefix("--xla_jf_dump_to="))
    (folder / "17-one-01-final_bundles.txt").write_text(SCHEDULE)
    (folder / "17-two-01-final_bundles.txt").write_text(SCHEDULE.replace(" LB:", "   :"))
    (folder / "17-one-00-schedule-analysis_final_bundles.txt").write_text("bundles: 7")
    assert own == "--own=1"
    # From the body of the loop to its exit, 602 times.
    cycles = schedules.cycles()
    assert cycles == {"one": (0x1E - 0x1B + 1) * 602}
    counts = hlo.count(GIVEN, cycles)
    assert (counts.cycles, counts.unscheduled) == (cycles["one"], 1)
    assert hlo.count(GIVEN).repeated(3).unscheduled == 6
    schedules.clear()
    assert not schedules.cycles()


@pytest.fixture(scope="module")
def counts():
    return hlo.count(TPU)


def test_a_loop_counts_once_for_each_turn_and_a_conditional_as_its_dearest_branch(counts):
    assert counts.cycles == 5 * 30 + 1000
    # Addition, fusion and comparison in each turn, one sine, one start of a collective.
    assert counts.kernels == 5 * 3 + 1 + 1


def test_bytes_are_those_of_main_memory_with_padding(counts):
    padded, vector = 8 * 128 * 4, 8 * 4
    # The result of the fusion, and the comparison, are in other memories.
    turn = 3 * padded + padded
    assert counts.bytes == 5 * turn + 2 * vector + (16 + 32) * 4 + vector


def test_collectives_are_found_in_fusions_and_halves_count_once(counts):
    assert {one[:3] + one[4:] for one in counts.collectives.values()} == {
        ("all-gather", 5, 80 * 3 * 40 * 4, 4),
        ("all-reduce", 1, 32 * 4, 2),
    }


def test_a_compiled_scan_is_counted():
    def turn(x):
        return jnp.tanh(x @ x)

    def turns(x):
        return jax.lax.scan(lambda carry, _: (turn(carry), None), x, length=7)[0]

    once, counts = (
        hlo.count(jax.jit(function).lower(jnp.ones((64, 64))).compile().as_text())
        for function in (turn, turns)
    )
    assert 7 * once.kernels <= counts.kernels
    assert 7 * once.bytes <= counts.bytes
    assert not counts.collectives
    assert not counts.cycles
