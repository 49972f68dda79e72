"""The TFDS builders of the datasets that are read from raw files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path

from sft_jax.data import watch
from sft_jax.data.builder import RawBuilder, RawConfig
from sft_jax.data.builder import prepare as prepare_builder
from sft_jax.data.readers import av_mnist, npz_folder, sentiment_files, tfds_source, vggsound_files
from sft_jax.data.records import DataFileError, RawData
from sft_jax.data_config import (
    AvMnistData,
    DataConfig,
    FolderData,
    SentimentData,
    TfdsData,
    VggSoundData,
    WatchData,
)


class CmuMosei(RawBuilder):
    """CMU-MOSEI (Zadeh et al. 2018): utterances by video, audio and words, and their sentiment."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "It takes mosei_senti_data_noalign.pkl or mosei_senti_data.pkl, as linked from"
        " https://github.com/yaohungt/Multimodal-Transformer, or unaligned_50.pkl or"
        " aligned_50.pkl of MOSEI, as linked from https://github.com/thuiar/MMSA"
    )


class CmuMosi(RawBuilder):
    """CMU-MOSI (Zadeh et al. 2016): utterances by video, audio and words, and their sentiment."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "It takes mosi_data_noalign.pkl or mosi_data.pkl, as linked from"
        " https://github.com/yaohungt/Multimodal-Transformer, or unaligned_50.pkl or"
        " aligned_50.pkl of MOSI, as linked from https://github.com/thuiar/MMSA"
    )


class VggSoundFeatures(RawBuilder):
    """Features of VGGSound clips (Chen et al. 2020), extracted by Ding et al. 2021."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "It takes vgg_train.h5py and vgg_test.h5py, or vgg100_train.h5py and vgg100_test.h5py,"
        " which the authors of Sparse Fusion Transformers extracted"
    )


class AvMnist(RawBuilder):
    """AV-MNIST: a handwritten and a spoken digit, as proposed by Vielzeuf et al. 2018."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "It takes the four files of MNIST, from https://storage.googleapis.com/cvdf-datasets/mnist/,"
        " and an archive of https://github.com/Jakobovski/free-spoken-digit-dataset as .tar.gz"
    )


class NpzFolder(RawBuilder):
    """Your own data, from a folder of .npz files with a manifest."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "It takes a folder with manifest.csv"


class FromTfds(RawBuilder):
    """What another dataset of TensorFlow Datasets holds, in this library's form."""


BUILDERS: dict[str, type[RawBuilder]] = {
    "watch": watch.Watch,
    "mosei": CmuMosei,
    "mosi": CmuMosi,
    "vggsound": VggSoundFeatures,
    "av_mnist": AvMnist,
    "npz_folder": NpzFolder,
    "tfds": FromTfds,
}
"""The builders by the names that configs have for their data."""

MULT_FILES = {
    "mosei": {"aligned": "mosei_senti_data.pkl", "noalign": "mosei_senti_data_noalign.pkl"},
    "mosi": {"aligned": "mosi_data.pkl", "noalign": "mosi_data_noalign.pkl"},
}


def prepare(config: DataConfig) -> RawBuilder:
    """Prepares the data that a config names on disk, unless that has been done before.

    Raises:
      OSError, ValueError, ModuleNotFoundError: as `sft_jax.data.builder.prepare`.
    """
    kind, raw = builder_of(config)
    return prepare_builder(kind, raw, config.data_dir, getattr(config, "manual_dir", ""))


def sentiment_path(config: SentimentData, folder: Path) -> Path:
    """Where the file of a variant is; also one folder down, as its publishers pack it.

    Raises:
      DataFileError: if it is not there.
    """
    source, _, alignment = config.variant.partition("_")
    name = config.file or (
        MULT_FILES[config.name][alignment] if source == "mult" else f"{alignment}_50.pkl"
    )
    found = sorted({*folder.glob(name), *folder.glob(f"*/{name}"), *folder.glob(f"*/*/{name}")})
    if len(found) > 1:
        named = [of for of in found if config.name in str(of.relative_to(folder)).lower()]
        found = named or found
    if len(found) != 1:
        what = f"found {[str(of) for of in found]}" if found else f"there is no {name}"
        raise DataFileError(
            f"{config.name}, variant {config.variant}: expected one file {name} in {folder};"
            f" {what}. Name another with data.file or data.variant"
        )
    return found[0]


def builder_of(config: DataConfig) -> tuple[type[RawBuilder], RawConfig]:
    """The class of the builder of a config's data, and what it reads."""
    match config:
        case WatchData():
            return watch.Watch, watch.raw_config(config.window_seconds, config.stride_seconds)
        case SentimentData():
            kind = CmuMosei if config.name == "mosei" else CmuMosi
            name = f"{config.variant}_{config.not_finite}"
            if config.file:
                name += f"_{_digest(config.file)}"
            ranks = dict.fromkeys(("vision", "audio", "text"), 2)
            read = functools.partial(_read_sentiment, config)
            return kind, RawConfig(
                name=name, read=read, ranks=ranks, task="regression", policy=config.not_finite
            )
        case VggSoundData():
            split = config.split if config.split == "authors" else f"valid_{config.valid_share}"
            name = f"classes_{config.classes}_{split}_{config.not_finite}"
            ranks = dict.fromkeys(("rgb", "spect", "flow"), 2)
            read = functools.partial(
                vggsound_files.read_vggsound,
                classes=config.classes,
                valid_share=config.valid_share,
                split=config.split,
            )
            return VggSoundFeatures, RawConfig(
                name=name, read=read, ranks=ranks, policy=config.not_finite
            )
        case AvMnistData():
            options = av_mnist.AvMnistOptions(
                energy=config.energy,
                snr_db=config.snr_db,
                blanked_share=config.blanked_share,
                train_pairs=config.train_pairs,
                valid_pairs=config.valid_pairs,
                test_pairs=config.test_pairs,
                seed=config.data_seed,
            )
            pairs = f"{config.train_pairs}_{config.valid_pairs}_{config.test_pairs}"
            name = f"pairs_{pairs}_{_digest(dataclasses.asdict(options))}"
            read = functools.partial(av_mnist.read_av_mnist, options=options)
            ranks = {"image": 3, "sound": 3}
            return AvMnist, RawConfig(name=name, read=read, ranks=ranks)
        case FolderData():
            folder = Path(os.path.expanduser(config.manual_dir))
            if not config.manual_dir or not folder.is_dir():
                raise DataFileError(
                    f"data.manual_dir={config.manual_dir!r} is not a folder: name the one with"
                    " manifest.csv"
                )
            raw_data = npz_folder.read_npz_folder(folder)
            digest = npz_folder.content_sha256(folder)[:12]
            name = f"{folder.resolve().name}_{digest}_{config.not_finite}"
            return NpzFolder, RawConfig(
                name=name,
                read=lambda _: raw_data,
                ranks={name: len(shape) for name, shape in raw_data.shapes.items()},
                task=raw_data.task,
                policy=config.not_finite,
            )
        case TfdsData():
            source = tfds_source.open_tfds(config)
            # What is stored depends neither on where it is nor on its patches.
            stored = dataclasses.asdict(config) | {"data_dir": "", "patch_size": {}}
            return FromTfds, RawConfig(
                name=f"{source.full_name.replace('/', '_')}_{_digest(stored)}",
                read=lambda _: source.read(),
                ranks=source.ranks,
                task=config.task,
                policy=config.not_finite,
                needs_files=False,
            )


def _read_sentiment(config: SentimentData, folder: Path) -> RawData:
    path = sentiment_path(config, folder)
    raw = sentiment_files.read_sentiment(path, config.name)
    if raw.variant != config.variant:
        raise DataFileError(
            f"{path} is of the variant {raw.variant}, not {config.variant}:"
            f" set data.variant={raw.variant} and data.file"
        )
    return raw


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
