"""Data that is prepared once for all tests of this directory."""

import functools
import importlib.metadata

import numpy as np
import pytest

from sft_jax.data import registry
from sft_jax.data.sets.av_mnist import pairs
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


@pytest.fixture(scope="session", autouse=True)
def _components_once():
    """Fits the principal components of equal images once, as that takes most of a test."""
    fit = pairs.fit_components

    @functools.cache
    def fit_content(content, shape, energy):
        return fit(np.frombuffer(content, np.uint8).reshape(shape), energy)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pairs,
            "fit_components",
            lambda images, energy: fit_content(images.tobytes(), images.shape, energy),
        )
        yield
