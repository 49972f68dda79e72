"""What is left to `make test-slow`: cases that take as long as others and say the same again."""

import re

import pytest


def slow_but(cases, *quick):
    """Cases for a test, all of them slow but for some that `make test` runs too."""
    assert set(quick) <= set(cases)
    return [case if case in quick else slow(case) for case in cases]


def slow(case):
    """A value, or a tuple of values of several names."""
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)


def files(names):
    """Golden files, of which `make test` leaves out what others are like."""
    like_others = (
        "_ks(_|$)|MulT_2_2|VARIANT_masked_sft_poolk_attn_topk|_pre2$"
        "|unimodal_(spec|text)|sft_poolk_avg|kspad_(avg|attn|topk|attn_wkmedoids)$"
    )
    return slow_but(names, *(name for name in names if not re.search(like_others, name)))


PRECISIONS = [slow("f32"), "f64"]
"""Of a comparison with golden arrays: float64 tells the same of a program as float32, and more."""
