"""The smartwatch data, prepared once for all tests of this directory."""

import importlib.metadata

import numpy as np
import pytest

from sft_jax.data import registry
from sft_jax.data.sets.watch.entry import WatchData


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory, worker_id):
    """Windows of 4 s every 1 s; test workers share them, whichever prepares them first."""
    base = tmp_path_factory.getbasetemp()
    directory = str((base if worker_id == "master" else base.parent) / "prepared")
    registry.prepare_dataset(WatchData(data_dir=directory))
    return directory


@pytest.fixture(scope="session")
def raw():
    """The file of recordings as it is, read without any code of ours."""
    path = importlib.metadata.distribution("seglearn").locate_file(
        "seglearn/data/watch_dataset.npy"
    )
    return np.load(path, allow_pickle=True).item()
