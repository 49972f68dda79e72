"""Pictures of the study: names, panels and the digest of the results that they are made from."""

import numpy as np
import pytest

from benchmarks.study import frontier, kept, pictures, robustness


def _result():
    tested = {"accuracy": {"mean": 0.8, "std": 0.02, "values": [0.8]}}
    sft = {"changes": {"model.k": 4}, "matmul_flops": 2e6, "test": tested}
    sft["settings"] = [{"k": 0, "matmul_flops": 1e6, "metrics": {"accuracy": tested["accuracy"]}}]
    mbt = {"changes": {"model.name": "mbt"}, "matmul_flops": 9e6, "test": tested}
    times = {"latency_seconds": {"median": 0.001}}
    return {
        "set": "watch",
        "metric": "accuracy",
        "rows": {"sft": sft, "mbt": mbt, "logistic regression": {"test": tested}},
        "cost": {"rows": {"sft": times}},
    }


def test_the_picture_names_its_rows_and_carries_the_digest_of_the_result(tmp_path):
    result = _result()
    result["rows"]["sight alone"] = result["rows"]["mbt"] | {"changes": {"model.name": "unimodal"}}
    near = {"test": {"accuracy": {"mean": 0.8001, "std": 0.0}}}
    result["rows"]["random forest"] = near
    found = [*frontier.points(result)]
    assert [point.name for point in found] == ["sft", "", "mbt"]
    assert [point.model for point in found] == ["sft", "sft", "mbt"]
    assert [point.seconds for point in found] == [0.001, None, None]
    text = _drawn(tmp_path, lambda: frontier.draw(result))
    assert pictures.digest(b"{}") in text
    assert "<!-- mbt -->" in text
    assert "<!-- sight alone -->" not in text
    # Levels that are near each other share a label.
    labels = [label.get_text() for label in frontier.draw(result).axes[0].texts]
    assert "random forest\nlogistic regression" in labels


def test_the_overview_is_relative_to_sft(tmp_path):
    result = _result()
    difference = {"mean": -0.02, "both": [-0.03, 0.01]}
    result["rows"]["mbt"]["differences"] = {"sft": difference}
    sft, mbt = frontier.relative(result)
    assert (sft.flops, sft.mean) == (1, 0)
    assert mbt[:3] == ("mbt", "mbt", 4.5)
    assert mbt[4:] == pytest.approx((-2, 1, 3))
    assert "smartwatch, 4 s" in _drawn(tmp_path, lambda: frontier.overview([result]))


def test_a_panel_for_each_modality_and_corruption(tmp_path):
    result = _result()
    tested = result["rows"]["sft"]["test"]["accuracy"]
    kinds = {"noise": {"1": tested, "2": tested}, "missing": {"0.5": tested}}
    corrupted = {"motion": kinds, "sound": kinds}
    result["why"] = {
        "rows": {name: {"intact": tested, "corrupted": corrupted} for name in ("sft", "mbt")}
    }
    drawn = robustness.draw(result)
    assert [axis.get_title() for axis in drawn.axes] == ["motion", "sound"] * 2
    assert all(len(axis.containers) == 2 for axis in drawn.axes)
    places = drawn.axes[0].containers[0].lines[0].get_xdata()
    assert [*places] == [0, 1, 2]
    assert "<!-- sound -->" in _drawn(tmp_path, lambda: drawn)


def _drawn(folder, draw):
    """Text of a saved picture."""
    path = folder / "picture.svg"
    pictures.save(pictures.Picture(draw, pictures.digest(b"{}")), path)
    return path.read_text()


def test_kept_tokens_of_every_kind_are_drawn(tmp_path):
    values = {
        "motion": ("series", np.zeros((20, 3)), [[[5, 10]]]),
        "face": ("image", np.zeros((4, 4, 1)), [[[0, 2], [2, 4]]]),
        "stay": ("events", np.zeros((6, 3)), [[[3, 4]]]),
    }
    modalities = {
        name: {"kind": kind, "values": own.tolist(), "kept": parts}
        for name, (kind, own, parts) in values.items()
    }
    drawn = kept.draw([{"title": "a", "modalities": modalities}])
    motion, face, stay = drawn.axes
    assert motion.patches[0].get_extents().width > 0
    assert face.patches[0].get_xy() == (1.5, -0.5)
    assert len(stay.lines) == 2
    assert "<!-- a, stay -->" in _drawn(tmp_path, lambda: drawn)
