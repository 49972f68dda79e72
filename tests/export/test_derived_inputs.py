"""Derived inputs of an exported file."""

from sft_jax.export import derived

RULES = {"a": "my.module:f:b", "c": "summary:b", "d": "summary:e"}


def test_sentences_say_what_must_be_given():
    assert derived.sentences({n: RULES[n] for n in "ac"}, ["c"]) == [
        "a is computed from b by my.module:f, and must be given",
        "c is computed from b by summary, unless it is given",
    ]


def test_summaries_have_their_source_in_the_model():
    assert derived.summaries(RULES, ["d", "c", "b", "a"]) == {"c": "b"}
