"""Learning-rate range test."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import synthetic
from matplotlib.text import Text

from sft_jax import config_io, lr_range
from sft_jax.evaluation.rate_plot import draw_rates
from sft_jax.training.rates import MIN_STEPS, range_of, rising

RATES = [*np.geomspace(1e-5, 1, 101)]


def _losses(rates):
    """Loss that falls around 1e-3, and rises without bound above 1e-1."""
    rates = np.asarray(rates)
    return 2 - 1.5 / (1 + (1e-3 / rates) ** 2) + (rates / 0.1) ** 3


def test_rates_rise_exponentially():
    schedule = rising(1e-5, 1.0, 101)
    np.testing.assert_allclose([schedule(step) for step in range(101)], RATES, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1.0, 0.1, 50), "0 < lowest < highest"), ((0.1, 1.0, 9), f"steps=9 .* {MIN_STEPS}")],
)
def test_wrong_ranges_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        rising(*arguments)


def test_the_steepest_fall_and_the_smallest_loss_are_told():
    result = range_of(RATES, iter(_losses(RATES)))
    np.testing.assert_allclose(result.steepest, 1e-3, rtol=0.2)
    assert 5e-3 < result.smallest < 5e-2
    assert len(result.rates) == len(result.losses) == len(result.smoothed) < len(RATES)
    np.testing.assert_allclose(result.smoothed[:40], result.losses[:40], rtol=0.05)


def test_the_test_ends_where_the_loss_diverges():
    taken = []

    def losses():
        for number in range(100):
            taken.append(number)
            yield float("nan") if number == 30 else 1.0 - number / 100

    result = range_of(RATES, losses())
    assert len(taken) == 31
    assert len(result.rates) == 30
    assert result.smallest == result.rates[-1]


def test_a_loss_that_never_falls_gives_no_rate():
    result = range_of(RATES, iter(np.linspace(1, 2, 101)))
    assert (result.steepest, result.smallest) == (None, None)
    assert "never fell" in lr_range._summary(result, 101)
    assert "never fell" in lr_range._summary(range_of(RATES, iter([float("nan")])), 101)


def test_the_picture_is_drawn(tmp_path, monkeypatch):
    texts, draw = [], Text.draw
    monkeypatch.setattr(
        Text, "draw", lambda self, *args: (texts.append(self.get_text()), draw(self, *args))
    )
    result = range_of(RATES, iter(_losses(RATES)))
    marked = {"steepest fall": result.steepest}
    draw_rates(tmp_path / "a.png", result.rates, result.losses, result.smoothed, marked, "title")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert {"title", "0.0001", f"steepest fall: {result.steepest:.2g}"} <= {*texts}


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # By ml_collections.
def test_a_rate_is_found_without_a_run(tmp_path, monkeypatch, capsys):
    config, data = synthetic.config(train__batch_size=16), synthetic.dataset()
    monkeypatch.setattr(lr_range, "open_dataset", lambda _: data)
    # The configs import `config_io` too, and must not see this.
    tiny = SimpleNamespace(from_mapping=lambda _: config, to_json=config_io.to_json)
    monkeypatch.setattr(lr_range, "config_io", tiny)
    arguments = ("--config=configs/watch.py", "--lowest=1e-5", "--highest=10", "--steps=40")
    synthetic.run_command(lr_range, *arguments, f"--out={tmp_path / 'out'}")
    files = sorted(path.name for path in tmp_path.rglob("*.*"))
    assert files == ["lr_range.json", "lr_range.png"]
    result = json.loads((tmp_path / "out" / "lr_range.json").read_text())
    assert 1e-4 < result["steepest"] < 1
    assert f"try --config.optim.lr={result['steepest']:.1g}" in capsys.readouterr().out
    expected = rising(1e-5, 10.0, 40)(np.arange(len(result["rates"])))
    np.testing.assert_allclose(result["rates"], expected, rtol=1e-5)
