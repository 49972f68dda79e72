"""The README's examples run as they stand."""

import pathlib
import re
import shlex
import sys

import fake_torch
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from absl import flags
from ml_collections import config_flags

from sft_jax import config_io
from sft_jax.data import __main__ as data_command
from sft_jax.data.registry import DATASETS
from sft_jax.profile import __main__ as profile

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
FIRST, CHECKPOINT, OWN_DATA = re.findall(
    r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL
)


def test_the_example_runs_and_is_short():
    assert len(FIRST.splitlines()) < 20
    names = {}
    exec(compile(FIRST, str(README), "exec"), names)
    assert names["logits"].shape == (8, 10)
    assert jnp.isfinite(names["logits"]).all()
    # The first example has no sound, so leaving the sound out must be the same.
    assert jnp.allclose(names["logits"][0], names["image_only"][0], atol=1e-5)
    assert not jnp.allclose(names["logits"][7], names["image_only"][7], atol=1e-3)


@pytest.mark.slow
def test_the_example_with_a_checkpoint_gives_the_authors_logits(monkeypatch, tmp_path):
    arrays, config = reference.load("sft_kspad_max")
    of_theirs = {"rgb": "vision", "spec": "audio", "text": "text"}
    model = reference.sft_model(config)
    names = {
        "model": model.clone(
            modalities={of_theirs[slot]: spec for slot, spec in model.modalities.items()},
            reference_windows={of_theirs[n]: w for n, w in model.reference_windows.items()},
        ),
        "inputs": {name: arrays[f"in/{slot}"] for slot, name in of_theirs.items()},
    }
    tensors = reference.under(arrays, "param/").items()
    fake_torch.install(monkeypatch, {name: fake_torch.Tensor(array) for name, array in tensors})
    (tmp_path / "sft.pth").touch()
    monkeypatch.chdir(tmp_path)
    exec(compile(CHECKPOINT, str(README), "exec"), names)
    np.testing.assert_allclose(names["logits"], arrays["f64/logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_recipe_for_arrays_of_ones_own_runs_and_is_short(monkeypatch, tmp_path):
    lines = [line for line in OWN_DATA.splitlines() if not line.startswith(("import", "from"))]
    assert len(list(filter(None, lines))) <= 15
    # A model that is quick to compile; everything else as it stands.
    small = OWN_DATA.replace("n_post=2, k=4", "width=8, num_heads=2, n_pre=0, n_post=1, k=2")
    assert small != OWN_DATA
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(small, str(README), "exec"), names)
    result = names["result"]
    assert (result["n_examples"], result["left_out"]) == (16, [])
    assert names["predictions"].logits.shape == (16, 2)
    # It holds what the README says that it holds.
    written = {path.name for path in (tmp_path / "runs" / "mine").iterdir()}
    listed = [name for row in _table("| file | what |") for name in re.findall("`(.*?)`", row[0])]
    assert {name.split("/")[0] for name in listed} == written


def _table(header):
    """The rows of the table with this header, as lists of cells."""
    text = README.read_text()
    table = text[text.index(header) :].split("\n\n", 1)[0]
    return [row.strip("|").split("|") for row in table.splitlines()[2:]]


def test_the_table_of_datasets_has_every_dataset_and_config():
    rows = _table("| `data.name` |")
    names = [name for row in rows for name in re.findall("`(.*?)`", row[0])]
    assert names == [*DATASETS]
    configs = [path for row in rows for path in re.findall("`(.*?)`", row[3])]
    assert configs == [f"configs/{name}.py" for name in names]


def _commands(start):
    """The commands of the README that start so, as lists of arguments."""
    text = README.read_text().replace("\\\n", " ")
    lines = re.findall(rf"^{re.escape(start)} (.*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_the_commands_for_data_are_understood():
    commands = _commands("python -m sft_jax.data")
    assert len(commands) >= 5
    for command in commands:
        data_command.parser().parse_args(command)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # By ml_collections.
def test_the_commands_for_training_have_configs_that_there_are(monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = _commands("python train.py")
    assert len(commands) >= 5
    for command in commands:
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values)
        flags.DEFINE_string("workdir", None, "", flag_values=values)
        monkeypatch.setattr(sys, "argv", ["train.py", *command])  # Where it finds overrides.
        values(sys.argv)
        assert values.workdir.startswith("runs/")
        config_io.from_mapping(values.config)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # By ml_collections.
def test_the_commands_for_costs_are_understood(monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = _commands("python -m sft_jax.profile")
    assert len(commands) >= 3
    for command in commands:
        values = flags.FlagValues()
        profile.define_flags(values)
        monkeypatch.setattr(sys, "argv", ["profile.py", *command])  # Where it finds overrides.
        assert values(sys.argv) == ["profile.py"]
        config = config_io.from_mapping(values.config)
        profile.models_of(config, values.models)
        profile.batch_sizes(values.batch_sizes)
        assert values.results is None or (ROOT / values.results).is_file()
