"""Freshness: a figure is stale as soon as code that can change it differs, and not before."""

import textwrap

import pytest

from benchmarks import freshness
from benchmarks.suites import SUITES

CODE = '''
"""Docstring."""

import jax  # The reason.


def double(x):
    """Doubles a number.

    Args:
      x: Number.
    """
    if x < 0:
        raise ValueError(
            f"x={x}: #1"  # The place.
        )
    text = "# no comment"
    return 2 * x, text
'''


def _essence(code):
    return freshness.essence(textwrap.dedent(code).encode()).decode()


def test_words_to_the_reader_do_not_count():
    assert _essence(CODE).splitlines() == [
        "import jax",
        "def double(x):",
        "    if x < 0:",
        "        raise ValueError",
        '    text = "# no comment"',
        "    return 2 * x, text",
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [("Doubles", "Halves"), ("reason", "cause"), ("#1", "é"), ("\n\n", "\n\n\n"), ('"""D', '"""É')],
)
def test_the_digest_stays_where_no_number_can_change(old, new):
    assert old in CODE
    assert _essence(CODE.replace(old, new)) == _essence(CODE)


@pytest.mark.parametrize(("old", "new"), [("2 *", "3 *"), ("no comment", "é"), ("ValueE", "KeyE")])
def test_the_digest_changes_with_the_code(old, new):
    assert old in CODE
    assert _essence(CODE.replace(old, new)) != _essence(CODE)


def test_a_file_that_appears_or_moves_is_a_difference():
    one = {"a.py": b"x = 1", "b.py": b"y = 1  # why"}
    assert freshness.digest(one) == freshness.digest({**one, "c.py": b'"""Nothing."""'})
    assert [*freshness.differing(one, {**one, "b.py": b"y = 1"})] == []
    for other in ({**one, "c.py": b"z = 1"}, {"c.py": one["a.py"], "b.py": one["b.py"]}):
        assert freshness.digest(one) != freshness.digest(other)
        assert "c.py" in [*freshness.differing(one, other)]


@pytest.mark.parametrize("name", SUITES)
def test_every_word_of_a_scope_stands_for_files(name):
    assert len(freshness.sources(SUITES[name].scope)) > 10
    with pytest.raises(ValueError, match=r"scope 'accuracy wacht': no file belongs to 'wacht'"):
        freshness.sources("accuracy wacht")


def test_scopes_hold_the_model_the_data_and_the_config():
    files = freshness.sources("accuracy watch")
    entry = "sft_jax/data/sets/watch/entry.py"
    within = {"sft_jax/ops/pool/select.py", "sft_jax/data/moments.py", "configs/watch.py", entry}
    assert within <= set(files)
    assert not [path for path in files if "av_mnist" in path or path in freshness.NO_NUMBERS]


@pytest.mark.parametrize("name", freshness.PARTS)
def test_every_pattern_of_a_part_stands_for_files(name):
    assert all(freshness.sources(pattern) for pattern in freshness.PARTS[name])


def test_files_without_numbers_exist():
    missing = [path for path in freshness.NO_NUMBERS if not (freshness.ROOT / path).is_file()]
    assert missing == []


def test_a_recorded_digest_decides_without_git(monkeypatch):
    monkeypatch.setattr(freshness, "_git", lambda *_, **__: None)
    scope = "accuracy watch"
    code = freshness.identity(scope)
    assert freshness.state(code, scope).fresh is True
    older = {**code, "scope_digest": "sha256:0", "commit": "a" * 40}
    assert freshness.state(older, scope) == (False, freshness.CHANGED, "a" * 40)


def test_an_older_result_is_compared_with_its_commit(monkeypatch):
    scope = "accuracy watch"
    then = dict(freshness.sources(scope))
    commits = {"same": then, "changed": {**then, "sft_jax/structs.py": b"x = 1"}, "absent": None}
    monkeypatch.setattr(freshness, "sources_at", lambda commit, _: commits[commit])

    def fresh(**code):
        return freshness.state({"dirty": False, **code}, scope).fresh

    assert fresh(commit="same") is True
    assert fresh(commit="same", dirty=True) is False
    assert fresh(commit="changed") is False
    assert fresh(commit="absent") is None
    assert fresh(commit=None) is False
    assert freshness.state(None, scope) == (False, "it names no commit", "")


def test_parts_of_a_result_have_their_own_scope():
    scope, own = "accuracy watch", "cost watch"
    row, part = freshness.identity(scope), freshness.identity(own)
    result = {"rows": {"k=4": {"code": row}}, "cost": {"rows": {}, "code": part}}
    states = freshness.states(result, scope)
    assert {name: state.word for name, state in states.items()} == {
        "k=4": "fresh",
        "part cost": "fresh",
    }
    result["cost"]["code"] = {**part, "scope_digest": "sha256:other"}
    assert freshness.worst(freshness.states(result, scope)).word == "stale"
    assert freshness.states(result, scope)["k=4"].fresh


def test_a_result_is_as_fresh_as_its_oldest_row():
    scope = "accuracy watch"
    new, old = freshness.identity(scope), {"scope": scope, "scope_digest": "", "commit": "b"}
    for rows in ({"k=4": {"code": new}}, [{"name": "k=4", "code": new}]):
        result = {"code": old, "rows": rows}
        assert freshness.codes(result) == {"k=4": new}
        assert freshness.worst(freshness.states(result, scope)).fresh
    rows = {"k=4": {"code": new}, "k=0": {"code": old}, "forest": {}}
    states = freshness.states({"models": rows}, scope)
    assert [states[name].word for name in rows] == ["fresh", "stale", "stale"]
    assert freshness.worst(states) == states["k=0"]
    assert freshness.codes({"code": old, "rows": {"jax": {"bytes": 1}}}) == {"": old}
