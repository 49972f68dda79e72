"""Grids and lists are read as combinations, whose values are read as on the command line."""

import re

import pytest

from sft_jax import config_io
from sft_jax.config import ExperimentConfig
from sft_jax.sweep.grid import config_with, draw, name, read_grid, read_list

BASE = config_io.to_config_dict(ExperimentConfig())


def test_a_grid_has_every_combination():
    read = read_grid("model.name=sft, mbt; config.model.k=1,4")
    assert [tuple(combination.items()) for combination in read] == [
        (("model.name", model), ("model.k", k)) for model in ("sft", "mbt") for k in ("1", "4")
    ]
    assert [*map(name, read)] == [
        "model.name=sft,model.k=1",
        "model.name=sft,model.k=4",
        "model.name=mbt,model.k=1",
        "model.name=mbt,model.k=4",
    ]


def test_commas_in_brackets_belong_to_a_value():
    read = read_grid("train.elastic_k=(1, 4),();model.tokenizers={'a': 'b,c'}")
    assert [combination["train.elastic_k"] for combination in read] == ["(1, 4)", "()"]
    assert {combination["model.tokenizers"] for combination in read} == {"{'a': 'b,c'}"}
    assert [*map(name, read)] == [
        "train.elastic_k=1_4,model.tokenizers=a_b_c",
        "train.elastic_k=empty,model.tokenizers=a_b_c",
    ]
    assert config_with(BASE, {"train.elastic_k": "(1, 4)"}).train.elastic_k == (1, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.k", "--grid: 'model.k': expected FIELD=VALUE,VALUE, such as model.k=1,4"),
        ("model.k=1;", "--grid: '': expected FIELD=VALUE,VALUE"),
        ("model.k=", "--grid: 'model.k=': expected FIELD=VALUE,VALUE"),
        ("model.k=1,,2", "--grid: 'model.k=1,,2' has an empty value"),
        ("model.k=1,4,1", "--grid: model.k has 1 more than once"),
        ("model.k=1;model.k=4", "--grid: model.k is there twice; give all of its values at once"),
    ],
)
def test_wrong_grids_are_refused(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        read_grid(text)


def test_each_line_of_a_list_is_a_combination(tmp_path):
    file = tmp_path / "runs.txt"
    file.write_text("# Two runs\nmodel.name=sft; model.k=4\n\nmodel.name=concat  # all tokens\n")
    assert read_list(file) == [{"model.name": "sft", "model.k": "4"}, {"model.name": "concat"}]
    file.write_text("model.k=1\nmodel.k=1; model.k=2")
    with pytest.raises(ValueError, match=r"line 2 of .*runs.txt: a field is there twice"):
        read_list(file)
    file.write_text("model.k=1\nsft")
    with pytest.raises(ValueError, match=r"line 2 of .*runs.txt: 'sft': expected FIELD=VALUE"):
        read_list(file)
    file.write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"runs.txt has no line with FIELD=VALUE"):
        read_list(file)


def test_a_larger_draw_contains_the_smaller():
    every = read_grid("model.k=1,2,3,4,5;seed=0,1,2")
    draws = [draw(every, number, seed=3) for number in (4, 9, 15)]
    assert [len(drawn) for drawn in draws] == [4, 9, 15]
    assert all(c in draws[1] for c in draws[0])
    assert draws[2] == every
    assert draw(every, 4, seed=4) != draws[0]
    assert draws[0] == sorted(draws[0], key=every.index)
    for number in (0, 16):
        with pytest.raises(ValueError, match=f"--random={number}: expected 1 to 15"):
            draw(every, number, seed=0)


def test_values_have_the_type_of_the_field():
    config = config_with(
        BASE,
        {"optim.lr": "1e-2", "model.k": "2", "mixup.consistent": "false", "model.modality": "4"},
    )
    assert (config.optim.lr, config.model.k) == (0.01, 2)
    assert (config.mixup.consistent, config.model.modality) == (False, "4")
    assert BASE.optim.lr == 0.001
    some = config_with(BASE, {"model.k.gyroscope": "1"})
    assert some.model.k == {"gyroscope": 1, "others": BASE.model.k}


@pytest.mark.parametrize(
    ("combination", "message"),
    [
        ({"model.kk": "1"}, "unknown config key 'model.kk': did you mean 'k'?"),
        ({"optim.lr": "fast"}, "--config.optim.lr=fast"),
        ({"optim.lr": "-1"}, "optim.lr: Input should be greater than 0, got -1.0"),
        ({"model.k": "two"}, "--config.model.k=two"),
    ],
)
def test_wrong_values_are_refused(combination, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        config_with(BASE, combination)


def test_long_names_end_in_a_digest():
    names = [name({f"model.{'x' * 200}": value}) for value in "ab"]
    assert [len(text) for text in names] == [159, 159]
    assert names[0] != names[1]
