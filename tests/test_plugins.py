"""Objects of other packages, found by their import path."""

import json.decoder
import sys

import pytest

from sft_jax import plugins


def test_an_attribute_is_imported():
    assert plugins.load("json.decoder:JSONDecoder", "data.name") is json.decoder.JSONDecoder
    assert plugins.load("json.decoder:JSONDecoder.decode", "x") is json.JSONDecoder.decode


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("json", "is not an import path such as"),
        ("json:", "is not an import path such as"),
        ("json.:load", "is not an import path such as"),
        ("no_such.module:load", "there is no module 'no_such'"),
        ("json.nothing:load", "there is no module 'json.nothing'"),
        ("json:nothing", "module 'json' has no attribute 'nothing'"),
    ],
)
def test_errors_name_the_field(path, message):
    with pytest.raises(ValueError, match=rf"^model\.name='{path}'.*{message}"):
        plugins.load(path, "model.name")


def test_a_package_that_a_module_lacks_is_not_mistaken_for_it(tmp_path, monkeypatch):
    (tmp_path / "with_a_need.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        plugins.load("with_a_need:anything", "model.name")
    sys.modules.pop("with_a_need", None)
