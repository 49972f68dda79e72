"""Cases that `make test` leaves to `make test-slow`: they take time and repeat what others show."""

import re

import pytest


def slow_but(cases, *quick):
    """Cases for a test, marked slow unless they are among `quick`."""
    assert set(quick) <= set(cases)
    return [case if case in quick else slow(case) for case in cases]


def slow(case):
    """A value, or a tuple of values for several names, marked slow."""
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)


LIKE_OTHERS = re.compile(
    "_ks(_|$)|MulT_2_2|VARIANT_masked_sft_poolk_attn_topk|_pre2$"
    "|unimodal_(spec|text)|sft_poolk_avg|kspad_(avg|attn|topk|attn_wkmedoids)$"
)
"""Golden files whose programs differ little from those of other files."""


def files(names):
    """Golden files, marked slow where they are like others."""
    return slow_but(names, *(name for name in names if not LIKE_OTHERS.search(name)))


PRECISIONS = [slow("f32"), "f64"]
"""Precisions of comparisons with golden arrays: float64 shows all that float32 does, and more."""
