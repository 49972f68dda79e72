"""The recipes of `docs/extending/` run as they stand."""

import pathlib
import re

import pytest

PAGES = sorted((pathlib.Path(__file__).parents[1] / "docs" / "extending").glob("*.md"))
# The page about datasets has a test of its own, with files to read.
RECIPES = [page for page in PAGES if page.stem != "dataset"]


@pytest.mark.parametrize("page", RECIPES, ids=lambda page: page.stem)
def test_a_recipe_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        assert "assert " in block
        exec(compile(block, page.name, "exec"), {"__name__": page.stem})


def test_every_seam_has_a_recipe():
    assert {"pool", "model", "loss", "tokenizer", "kernel"} <= {page.stem for page in RECIPES}
