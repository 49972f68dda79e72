"""Figures of README and docs: those of files of results, and marked where their code changed."""

import re

import pages as documentation
import pytest

from benchmarks import freshness
from benchmarks.tables import __main__ as command
from benchmarks.tables import pages, provenance, values

ALLOWED = {
    "README.md": {"3.11": "version of Python", "2.0": "licence"},
    "docs/comparing.md": {"95 %": "level of an interval", "2.5": "Student's t, 4.303 / sqrt(3)"},
    "docs/datasets.md": {"14 %": "of the labels", "2.56": "s of a window", "6.2": "hours of data"},
    "docs/evaluation.md": {"5 %": "definition", "0.5": "default of a field", "0.8": "example"},
    "docs/fine_tuning.md": {"3.2": "section of a paper"},
    "docs/index.md": {"3.11": "version of Python"},
    "docs/inference.md": {"0.5": "default of a field"},
    "docs/kinds.md": {"2106.11959": "arXiv", "10 ms": "stride of a recipe"},
    "docs/launching.md": {"3.12": "version of Python"},
    "docs/methods.md": {"0.005": "default of a flag"},
    "docs/results.md": {"95 %": "level of an interval"},
    "docs/scaling.md": {"580.159": "driver", "0.11": "version of JAX"},
    "docs/training.md": {
        **{"3.3": "section of a paper", "14 %": "of the labels", "0.5": "threshold"},
        "2.35": "version of glibc",
    },
}
"""Numbers that a page may have outside the parts of results, with the reason."""

_LEFT_OUT = re.compile(
    r"<!-- results:.*?<!-- end -->|<!--.*?-->"
    r"|^ *```(?:bash|python|console|toml|bibtex|yaml)\n.*?```$"  # What a program prints stays in.
    r"|`[^`\n]*`|\]\([^)]*\)|<?https?:[^>\s]*",
    re.DOTALL | re.MULTILINE,
)
_NUMBER = re.compile(
    r"(?<![\w.])\d[\d,]*"
    r"(?:\.\d+(?:e-?\d+)?|(?= ?%| (?:points|times|million|MFLOPs|ms|µs|kB|MiB|GiB)\b))"
    r"(?: ?%| ms\b)?"
)


def _typed(text):
    """Numbers that look like results: with a decimal point, or followed by a unit of results."""
    return _NUMBER.findall(_LEFT_OUT.sub("", text))


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page in a repository of its own, with the published files of results."""
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    (tmp_path / "docs" / "api").mkdir(parents=True)
    return tmp_path / "docs" / "api" / "page.md"


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr(pages, "note", lambda _: "")


def test_pages_have_the_figures_of_the_results():
    try:
        differing = [str(path.relative_to(pages.ROOT)) for path, _ in pages.differing()]
    except provenance.UnknownStateError as error:
        pytest.skip(f"freshness is not known here: {error}")
    assert differing == [], "run python -m benchmarks.tables"


@pytest.mark.parametrize("path", documentation.pages(), ids=documentation.identifier)
def test_no_figure_is_typed_by_hand(path):
    allowed = ALLOWED.get(documentation.identifier(path), {})
    typed = _typed(path.read_text())
    assert sorted(set(typed) - set(allowed)) == [], "figures come from files of results"
    assert set(allowed) <= set(typed), "ALLOWED has numbers that the page lacks"


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("reaches 0.849 here, 84.9 % there", ["0.849", "84.9 %"]),
        ("| `sft` | 0.81 ± 0.02 |", ["0.81", "0.02"]),
        ("12 points better, 1,546 ms, 4.5e-7, 6 times", ["12", "1,546 ms", "4.5e-7", "6"]),
        ("```\naccuracy 0.7921\n```", ["0.7921"]),
        ("```bash\ntrain --lr=0.1\n```\n`0.5`, [a](https://arxiv.org/abs/2111.11992)", []),
        ("<!-- results: value a.json b .3f -->0.849<!-- end --> of 1,400 windows, k = 4", []),
    ],
)
def test_typed_figures_are_found(text, typed):
    assert _typed(text) == typed


def test_a_changed_figure_makes_a_page_differ(page, fresh):
    marker = "<!-- results: growth growth.json -->"
    page.write_text(f"Growth:\n\n{marker}\n<!-- end -->\n")
    page.write_text(pages.filled(page))
    assert "| 1,024 to 4,096 |" in page.read_text()
    assert pages.filled(page) == page.read_text()
    page.write_text(page.read_text().replace("4,096", "4,097"))
    assert "4,096" in pages.filled(page)


def test_stale_tables_and_values_are_marked(page, monkeypatch):
    monkeypatch.setattr(pages, "note", lambda file: f"`{file}` (abc1234)")
    page.write_text(
        "SFT has <!-- results: value kills.json steps , --><!-- end -->.\n"
        "<!-- results: growth growth.json -->\n<!-- end -->\n"
    )
    text = pages.filled(page)
    link = "](../results.md#provenance)"
    assert f"7,035[†{link}<!-- end -->." in text
    assert "\n\n| † attention | tokens | time | memory |\n" in text
    assert f"\n\n† Made by [older code{link}: `growth.json` (abc1234).\n\n<!-- end -->" in text


def test_fresh_figures_have_no_mark(page, fresh):
    page.write_text("<!-- results: growth growth.json -->\n<!-- end -->\n")
    assert "†" not in pages.filled(page)
    assert "\n\n| attention |" in pages.filled(page)


def test_a_note_names_stale_rows_and_their_commits(monkeypatch):
    new, old = (
        freshness.State(fresh, "", letter * 40) for fresh, letter in ((True, "a"), (False, "b"))
    )
    unknown = freshness.State(None, "no history", "c" * 40)
    for states, note in (
        ({"": new}, ""),
        ({"": old}, "`growth.json` (bbbbbbb)"),
        ({"k=4": new, "k=0": old}, "`growth.json` (`k=0`: bbbbbbb)"),
        ({"": freshness.State(False, "", "")}, "`growth.json` (no commit)"),
    ):
        monkeypatch.setattr(freshness, "states", lambda *_, own=states: own)
        assert provenance.note.__wrapped__("growth.json") == note
    monkeypatch.setattr(freshness, "states", lambda *_: {"": unknown})
    with pytest.raises(provenance.UnknownStateError, match=r"growth.json: no history \(cccc"):
        provenance.note.__wrapped__("growth.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- results: growth growth.json -->\n", "has no <!-- end -->"),
        ("a <!-- results: growht growth.json --><!-- end -->", "no part 'growht'"),
        ("is\n<!-- results: value kills.json steps , --><!-- end -->", "begins a line"),
    ],
)
def test_wrong_markers_are_refused(page, text, message):
    page.write_text(text)
    with pytest.raises(ValueError, match=message):
        pages.filled(page)


def test_the_command_checks_and_writes(page, fresh, monkeypatch, capsys):
    (pages.ROOT / "README.md").write_text("Nothing.\n")
    page.write_text("It has <!-- results: value kills.json steps , --><!-- end -->.\n")
    monkeypatch.setattr("sys.argv", ["tables", "--check"])
    with pytest.raises(SystemExit, match="these pages differ"):
        command.main()
    monkeypatch.setattr("sys.argv", ["tables"])
    command.main()
    assert capsys.readouterr().out == "docs/api/page.md\n" * 2
    assert "7,035<!-- end -->." in page.read_text()
    monkeypatch.setattr("sys.argv", ["tables", "--check"])
    command.main()


def test_values_have_the_form_that_is_asked_for():
    keys = ("exported.json", "files", "c, float", "sizes", "ram_bytes")
    size = values.value(*keys, "d")
    assert values.value(*keys, ".1%") == f"{size}00.0 %"
    vggsound = ("profile_vggsound.json", "models", "sft", "forward_flops")
    assert values.value(*vggsound, ",.0fM") == "527 million"
