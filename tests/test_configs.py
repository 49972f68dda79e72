"""Every config file is loaded, and its model is traced; the slow tests run it."""

import importlib
import pkgutil

import jax
import numpy as np
import pytest

import configs
from configs import hapt, physionet2012, watch
from sft_jax import ModalitySpec, config_io
from sft_jax.modules.factory import build_model

WATCH = dict.fromkeys(("accelerometer", "gyroscope"), ModalitySpec(200, 3, 10))
SENTIMENT = {
    "vision": ModalitySpec(500, 35),
    "audio": ModalitySpec(500, 74),
    "text": ModalitySpec(50, 300),
}
MODALITIES = {
    "watch": WATCH,
    "npz_folder": WATCH,
    "tfds": WATCH,
    "matching": dict.fromkeys(("left", "right"), ModalitySpec(64, 16, kind="embedding")),
    "mosei": SENTIMENT,
    "mosi": SENTIMENT,
    "vggsound": {
        "rgb": ModalitySpec(38, 1024),
        "spect": ModalitySpec(1200, 128),
        "flow": ModalitySpec(38, 1024),
    },
    "hapt": dict.fromkeys(WATCH, ModalitySpec(1500, 3, 15)),
    "av_mnist": {
        "image": ModalitySpec((28, 28), 1, (7, 7)),
        "sound": ModalitySpec((64, 32), 1, (4, 16)),
    },
    "physionet2012": {"statistics": ModalitySpec(1, 185, 185, kind="vector")}
    | {
        name: ModalitySpec(length, 3, kind="events", vocabulary=types)
        for name, length, types in (("vitals", 155, 14), ("labs", 203, 23), ("static", 5, 8))
    },
}
FILES = [
    module.name
    for module in pkgutil.iter_modules(configs.__path__)
    if hasattr(importlib.import_module(f"configs.{module.name}"), "get_config")
]


def test_every_config_file_is_tested():
    assert set(FILES) == set(MODALITIES)


def _model(name, argument=None):
    config_dict = importlib.import_module(f"configs.{name}").get_config(argument)
    assert config_dict.is_locked
    config = config_io.from_mapping(config_dict)
    return build_model(config.model, MODALITIES[name], num_classes=7)


def _logits(model):
    def initialise_and_apply(key):
        inputs = model.example_inputs()
        return model.apply(model.init(key, inputs), inputs)

    return initialise_and_apply


@pytest.mark.parametrize("name", FILES)
def test_a_config_builds_a_model(name):
    logits = jax.eval_shape(_logits(_model(name)), jax.eval_shape(jax.random.key, 0))
    assert logits.shape == (1, 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("watch", None),
        ("av_mnist", None),
        ("mosei", "size=laptop"),
        ("vggsound", "size=laptop"),
    ],
)
def test_the_model_of_a_config_gives_finite_logits(name, argument):
    # Keys of the rbg implementation compile quickly.
    logits = jax.jit(_logits(_model(name, argument)))(jax.random.key(0, impl="rbg"))
    assert np.isfinite(logits).all()


def test_arguments_change_the_model():
    default, changed = (
        config_io.from_mapping(watch.get_config(arg)) for arg in (None, "pool=max,k=1")
    )
    assert config_io.differences(default, changed) == [
        "model.k: 4 -> 1",
        "model.pool: 'attn_topk' -> 'max'",
    ]


@pytest.mark.parametrize("name", ["vggsound", "mosei", "av_mnist"])
def test_sizes_for_accelerators_have_wide_heads_and_mlps(name):
    for size, width in (("base", 256), ("large", 512)):
        model = _model(name, f"size={size}")
        assert (model.width, model.width // model.num_heads, model.mlp_ratio) == (width, 128, 4)
        assert (model.dtype, model.remat) == ("bfloat16", True)
    with pytest.raises(ValueError, match=r"size='huge' is not one of .*, base, large"):
        _model(name, "size=huge")


def test_a_size_leaves_mult_its_own_mlps():
    assert _model("mosei", "size=base,model=mult").mlp_ratio == 1


def test_targets_of_hapt_fit_their_tasks():
    for argument, tokens in ((None, 100), ("target=activity", 16)):
        config = config_io.from_mapping(hapt.get_config(argument))
        shapes = config.data.outline()
        assert config.model.task == shapes.task
        assert {spec.num_tokens for spec in shapes.modalities.values()} == {tokens}


def test_targets_of_physionet_have_their_tasks():
    for argument, task in ((None, "single_label"), ("target=stay", "regression")):
        assert config_io.from_mapping(physionet2012.get_config(argument)).model.task == task


@pytest.mark.parametrize(("person", "next_person"), [(3, 4), (10, 1)])
def test_one_person_can_be_left_out(person, next_person):
    data = config_io.from_mapping(watch.get_config(f"leave_out={person}")).data
    assert (data.test_people, data.valid_people) == ((person,), (next_person,))
    assert sorted(data.train_people + data.valid_people + data.test_people) == list(range(1, 11))


def test_summaries_of_the_sensors_are_one_token_each():
    config = config_io.from_mapping(watch.get_config())
    shapes = config.data.outline().modalities
    assert list(shapes) == [*WATCH, *(f"{name}_summary" for name in WATCH)]
    model = build_model(config.model, shapes, num_classes=7)
    kept = {"accelerometer": 4, "gyroscope": 4, "accelerometer_summary": 1, "gyroscope_summary": 1}
    assert dict(model.kept_tokens()) == kept
    without = config_io.from_mapping(watch.get_config("summaries=0"))
    assert (without.data.derived, without.train.modality_dropout) == ({}, 0)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "pol=max",
            "'pol=max' is not KEY=VALUE with a known key: did you mean 'pool'. allowed here: k, ",
        ),
        ("max", "'max' is not KEY=VALUE"),
        ("pool=max,k=one", "'k=one': expected a value of type int"),
    ],
)
def test_a_wrong_argument_is_named(argument, message):
    with pytest.raises(ValueError, match=message):
        watch.get_config(argument)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("pool=mean", "model.pool: 'mean' is not one of max, avg, attn, attn_topk"),
        ("model=mbp", "model.name: 'mbp' is not one of sft, late, concat, "),
        ("leave_out=11", "data.test_people: Input should be less than or equal to 10, got 11"),
    ],
)
def test_a_wrong_value_is_named(argument, message):
    with pytest.raises(config_io.ConfigError, match=message):
        config_io.from_mapping(watch.get_config(argument))
