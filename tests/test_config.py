"""Configs: exact round trips, and every problem named at once."""

import dataclasses
import json
import math

import ml_collections
import pydantic
import pytest

from sft_jax import config_io
from sft_jax.config import (
    ExperimentConfig,
    MeshConfig,
    MixupConfig,
    ModelConfig,
    OptimConfig,
    SystemConfig,
    TrainConfig,
)
from sft_jax.data.registry import DATASETS
from sft_jax.data.sets.watch.entry import WatchData

DEFAULT = ExperimentConfig()
# Every field differs from its default.
OTHER = ExperimentConfig(
    seed=7,
    seeds=(4, 2),
    data=WatchData(
        data_dir="somewhere",
        modalities=("gyroscope",),
        window_seconds=3.5,
        stride_seconds=0.1,
        patch_size=7,
        derived={"turns": "summary:gyroscope"},
        train_people=(3, 1),
        valid_people=(2,),
        test_people=(10,),
        folds=4,
        fold=3,
    ),
    model=ModelConfig(
        task="ordinal",
        width=12,
        num_heads=3,
        n_pre=0,
        n_post=2,
        pool="attn",
        k={"accelerometer": 2, "gyroscope": 3},
        saliency="from_cls",
        readout="mean",
        unimodal_attention="windowed",
        pre_pooling_attention="block_sparse",
        attention_kernel="tiled",
        parts=2,
        dropout=0.1,
        layer_drop=0.1,
        embedding_std=0.5,
        mlp_ratio=2,
        remat=True,
        matmul_precision="highest",
        modality="gyroscope",
        dtype="bfloat16",
        tokenizers={"gyroscope": "my_package.my_module:MyTokenizer"},
    ),
    optim=OptimConfig(
        name="sgd",
        lr=1 / 3,
        weight_decay=1e-4,
        options={"momentum": 0.9, "nesterov": True},
        schedule="plateau",
        warmup_epochs=0.0,
        plateau_factor=0.3,
        plateau_patience=2,
        clip_norm=0.0,
        groups=(("tokenizer_.*", 0.0), ("head", 10.0)),
        layer_decay=0.7,
    ),
    train=TrainConfig(
        epochs=3,
        init_from="runs/other",
        batch_size=12,
        accumulate=3,
        loss="focal",
        class_weights={"yes": 2.0},
        sampling="balanced",
        label_smoothing=0.1,
        modality_dropout=0.2,
        elastic_k=(1, 2),
        elastic_patch=(1, 2),
        ema_decay=0.9,
        evaluate_every_epochs=2,
        best_metric="accuracy",
        patience=3,
        log_every_steps=1,
        keep_latest=1,
    ),
    mixup=MixupConfig(
        layers="fused", alpha=0.4, shares="static", warmup_epochs=2.0, consistent=False
    ),
    mesh=MeshConfig(data=4, fsdp=2, model=3),
    system=SystemConfig(
        batches_ahead=0, read_threads=3, trace_from=3, trace_steps=2, compilation_cache="cache"
    ),
)


def test_the_other_config_differs_in_every_field():
    changed = {line.split(":")[0] for line in config_io.differences(DEFAULT, OTHER)}
    sections = {
        "data": WatchData,
        "model": ModelConfig,
        "optim": OptimConfig,
        "train": TrainConfig,
        "mixup": MixupConfig,
        "mesh": MeshConfig,
        "system": SystemConfig,
    }
    expected = {"seed", "seeds"} | {
        f"{name}.{field.name}"
        for name, section in sections.items()
        for field in dataclasses.fields(section)
    }
    # Only one choice of these is tested here; options and rules are compared one by one.
    mappings = {"data.derived", "model.tokenizers", "optim.options"}
    expected -= {"data.name", "model.name", *mappings}
    assert expected <= changed


@pytest.mark.parametrize("config", [DEFAULT, OTHER])
def test_round_trip_through_json(config):
    text = json.dumps(config_io.to_json(config))
    assert config_io.from_mapping(json.loads(text)) == config


@pytest.mark.parametrize("config", [DEFAULT, OTHER])
def test_round_trip_through_a_config_dict(config):
    assert config_io.from_mapping(config_io.to_config_dict(config)) == config


def test_a_config_dict_is_locked():
    config = config_io.to_config_dict(DEFAULT)
    with pytest.raises(AttributeError, match="lr"):
        config.optim.lrr = 1.0
    with pytest.raises(TypeError):
        config.model.width = "wide"


def test_missing_keys_take_their_defaults():
    assert config_io.from_mapping({}) == DEFAULT
    assert config_io.from_mapping({"model": {"k": 2}}).model == ModelConfig(k=2)


def _problems(mapping):
    with pytest.raises(config_io.ConfigError) as caught:
        config_io.from_mapping(mapping)
    return str(caught.value)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        (
            {"modle": {}},
            "modle: unknown key; did you mean 'model'? allowed here: data, mesh,",
        ),
        ({"model": {"widht": 8}}, "model.widht: unknown key; did you mean 'width'?"),
        ({"data": {"windows": 1}}, "data.windows: unknown key; did you mean 'window_seconds'?"),
        ({"optim": {"learning_rate": 1}}, "optim.learning_rate: unknown key; allowed here: clip"),
        ({"train": {"batchsize": 8}}, "train.batchsize: unknown key; did you mean 'batch_size'?"),
        ({"seed": "0"}, "seed: Input should be a valid integer, got '0'"),
        ({"seed": True}, "seed: Input should be a valid integer, got True"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0, got -1"),
        ({"seeds": [0, -1]}, "seeds: Input should be greater than or equal to 0, got -1"),
        ({"seeds": [0, 2**31]}, "seeds: Input should be less than 2147483648"),
        ({"seeds": [0, 1.5]}, "seeds: Input should be a valid integer, got 1.5"),
        (
            {"seeds": [0, 3, 1, 3]},
            "seeds=(0, 3, 1, 3) has 3 more than once; allowed are integers from 0 to 2147483647",
        ),
        ({"seed": 2**31}, "seed: Input should be less than 2147483648"),
        ({"model": 3}, "model: Input should be an object, got 3"),
        ({"model": {"width": 8.5}}, "model.width: Input should be a valid integer, got 8.5"),
        (
            {"model": {"pool": "mean"}},
            "model.pool: 'mean' is not one of max, avg, attn, attn_topk, attn_wkmedoids, channel",
        ),
        ({"model": {"k": -1}}, "model.k: Input should be greater than or equal to 0, got -1"),
        (
            {"model": {"k": {"a": -1}}},
            "model.k.a: Input should be greater than or equal to 0, got -1",
        ),
        (
            {"model": {"n_pre": 0}, "mixup": {"layers": "within"}},
            "mixup.layers='within' has no layer to mix: model.n_pre is 0",
        ),
        ({"mixup": {"alpha": 0.0}}, "mixup.alpha: Input should be greater than 0, got 0.0"),
        ({"model": {"dropout": 1.0}}, "model.dropout: Input should be less than 1, got 1.0"),
        ({"model": {"num_heads": 7}}, "model: width=40 is not divisible by num_heads=7"),
        ({"optim": {"lr": 0.0}}, "optim.lr: Input should be greater than 0, got 0.0"),
        ({"optim": {"lr": math.nan}}, "optim.lr: Input should be a finite number, got nan"),
        ({"optim": {"lr": math.inf}}, "optim.lr: Input should be a finite number, got inf"),
        ({"optim": {"clip_norm": math.nan}}, "optim.clip_norm: Input should be a finite number"),
        ({"model": {"dropout": math.nan}}, "model.dropout: Input should be "),
        ({"optim": {"plateau_factor": math.nan}}, "optim.plateau_factor: Input should be "),
        ({"train": {"batch_size": 10, "accumulate": 4}}, "batch_size=10 is not divisible by accum"),
        ({"data": {"train_people": []}}, "data: empty split: train_people must name at least one"),
        (
            {"data": {"test_people": [11]}},
            "data.test_people: Input should be less than or equal to",
        ),
        ({"data": {"valid_people": [1]}}, "data: people [1] are in more than one split"),
        ({"data": {"valid_people": [7, 7]}}, "data: people [7] are in more than one split"),
        ({"model": {"task": "multilabel"}}, "model.task: Input should be 'single_label', 'multi_l"),
        (
            {"model": {"task": "regression"}, "train": {"label_smoothing": 0.1}},
            "  with model.task='regression' train.label_smoothing=0.1 must be 0",
        ),
        (
            {"model": {"task": "regression"}, "train": {"best_metric": "accuracy"}},
            "  train.best_metric='accuracy' is not a metric of model.task='regression' but of"
            " single_label, ordinal, multi_label; allowed are loss, mae, rmse, pearson_r, r2, or",
        ),
        (
            {"train": {"class_weights": "balance"}},
            "train.class_weights: 'balance' is neither empty, balanced, nor a weight by class",
        ),
        (
            {"train": {"class_weights": {"yes": 0.0}}},
            "train.class_weights.yes: Input should be greater than 0, got 0.0",
        ),
        (
            {
                "model": {"task": "multi_label"},
                "train": {"loss": "a.b:c", "class_weights": "balanced"},
            },
            "train.class_weights must be empty for train.loss='a.b:c' with model.task='multi_la",
        ),
        (
            {"model": {"task": "regression"}, "train": {"class_weights": "balanced"}},
            "train.class_weights must be empty for model.task='regression'",
        ),
        (
            {"model": {"task": "multi_label"}, "train": {"sampling": "balanced"}},
            "train.sampling='balanced' must be 'shuffled' for model.task='multi_label', whose exam",
        ),
        (
            {"train": {"sampling": "balanced", "class_weights": "balanced"}},
            "would make up for rare classes twice; leave one of them out",
        ),
        (
            {"train": {"loss": "huber"}},
            "train.loss='huber' is not a loss for model.task='single_label'; allowed are auto,"
            " cross_entropy, focal, or an import path",
        ),
        ({"model": {"name": "bert"}}, "model.name: 'bert' is not one of sft, late, concat,"),
        (
            {"model": {"attention_kernel": "fast"}},
            "attention_kernel='fast' is not one of auto, plain, tiled, flash, cudnn, nor an import",
        ),
        (
            {"model": {"tokenizers": {"sound": "mel"}}},
            "model.tokenizers.sound: 'mel' is not one of conv, nor an import path such as 'my_pack",
        ),
        ({"optim": {"options": {"mask": len}}}, "builtin_function_or_method is not JSON"),
    ],
)
def test_each_problem_is_named(mapping, expected):
    assert expected in _problems(mapping)


def test_all_problems_are_reported_at_once():
    problems = _problems(
        {
            "sed": 0,
            "data": {"train_people": [], "patch": 1},
            "model": {"pool": "mean", "heads": 1},
            "optim": {"lr": "fast"},
        }
    )
    keys = [line.split(":")[0].strip() for line in problems.splitlines()[1:]]
    assert {"sed", "data.patch", "model.pool", "model.heads", "optim.lr"} <= set(keys)
    assert len(keys) == len(set(keys))


def test_the_dataclasses_check_themselves():
    with pytest.raises(pydantic.ValidationError, match="width=9 is not divisible by num_heads=2"):
        ModelConfig(width=9, num_heads=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT.seed = 1


def test_differences_name_the_fields():
    new = dataclasses.replace(
        DEFAULT, seed=1, model=ModelConfig(k={"a": 2}), optim=OptimConfig(options={"b1": 0.8})
    )
    assert config_io.differences(DEFAULT, DEFAULT) == []
    assert config_io.differences(DEFAULT, new) == [
        "model.k: 4 -> None",
        "model.k.a: None -> 2",
        "optim.options.b1: None -> 0.8",
        "seed: 0 -> 1",
    ]


@pytest.mark.parametrize(
    ("before", "flags", "after"),
    [
        (3, ["--config.model.k.image=4"], {"image": 3, "others": 3}),
        ({"sound": 2}, ["--config.model.k.image=4"], {"image": 4, "sound": 2}),
        (3, ["--config.model.k=5", "--workdir=k.image"], 3),
        (3, ["-config.model.k.others=1"], {"others": 3}),
    ],
)
def test_flags_of_some_modalities_make_budgets_a_mapping(before, flags, after):
    model = dataclasses.replace(DEFAULT.model, k=before)
    config = config_io.to_config_dict(dataclasses.replace(DEFAULT, model=model))
    config_io.split_budgets(config, flags)
    k = config.model.k
    assert (k.to_dict() if isinstance(k, ml_collections.ConfigDict) else k) == after
    with pytest.raises(config_io.ConfigError, match=r"--config.model.k=2 is for all .*k\.others"):
        config_io.split_budgets(config, ["--config.model.k=2", "--config.model.k.a=1"])


def test_unknown_overrides_are_named():
    config = config_io.to_config_dict(DEFAULT)
    assert isinstance(config, ml_collections.ConfigDict)
    flags = ["--config.model.k=1", "--config.modle.k=1", "--config.model.pol", "--config.seed.x=1"]
    assert config_io.unknown_overrides(config, flags[:1]) == []
    modle, pol, seed = config_io.unknown_overrides(config, flags)
    assert modle.startswith(
        "unknown config key 'modle.k': did you mean 'model'? allowed here: data"
    )
    assert pol.startswith(
        "unknown config key 'model.pol': did you mean 'pool'? allowed here: atten"
    )
    assert seed == "unknown config key 'seed.x': allowed here: nothing"


@pytest.mark.parametrize("name", DATASETS)
def test_every_folder_of_every_dataset_is_resolved(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    kind = DATASETS[name]
    fields = [field.name for field in dataclasses.fields(kind) if field.name.endswith("_dir")]
    assert config_io.folders(kind(name=name)) == fields
    for folder, expected in (
        ("a/../b", str(tmp_path / "b")),
        ("~/b", str(tmp_path / "home" / "b")),
        ("/b", "/b"),
        ("gs://bucket/b", "gs://bucket/b"),
        ("", ""),
    ):
        config = ExperimentConfig(
            data=kind(name=name, **dict.fromkeys(fields, folder)),
            system=SystemConfig(compilation_cache=folder),
        )
        resolved = config_io.resolved(config)
        assert [getattr(resolved.data, field) for field in fields] == [expected] * len(fields)
        assert resolved.system.compilation_cache == expected
        assert config_io.from_mapping(config_io.to_json(resolved)) == resolved


def test_fields_without_effect_on_results_are_marked():
    changed = {line.split(":")[0] for line in config_io.differences(DEFAULT, OTHER)}
    decisive = config_io.differences(DEFAULT, OTHER, results_only=True)
    ignored = changed - {line.split(":")[0] for line in decisive}
    assert {key for key in ignored if key.split(".")[0] not in ("mesh", "system")} == {
        "data.data_dir",
        "model.attention_kernel",
        "model.matmul_precision",
        "model.parts",
        "model.remat",
        "train.keep_latest",
        "train.log_every_steps",
    }
    assert {"train.label_smoothing", "train.evaluate_every_epochs", "data.patch_size"} <= changed


def test_weights_of_classes_are_read_from_text_and_kept():
    written = {"train": {"class_weights": "a=b=2, c=0.5"}}
    config = config_io.from_mapping(written)
    assert config.train.class_weights == {"a=b": 2.0, "c": 0.5}
    assert config_io.from_mapping(config_io.to_json(config)) == config
    assert TrainConfig(class_weights={1: 6}).class_weights == {"1": 6.0}
