"""What a model has to know of the data of a config, without the data where its format says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sft_jax.data import registry
from sft_jax.data.readers import av_mnist, recordings, sentiment_files, vggsound_files
from sft_jax.data_config import AvMnistData, DataConfig, SentimentData, VggSoundData, WatchData
from sft_jax.structs import ModalitySpec, Task


class Outline(NamedTuple):
    """Inputs and outputs.

    Attributes:
      modalities: the shape of each.
      num_outputs: classes, labels or numbers to predict.
      task: what the outputs are.
    """

    modalities: dict[str, ModalitySpec]
    num_outputs: int
    task: Task


def outline(config: DataConfig) -> Outline:
    """What `sft_jax.data.registry.open_dataset` would say of the data of a config.

    Of a folder of your own and of another dataset of TFDS only the data itself can tell, so these
    are opened; the other formats are fixed, and of sentiments those of the published files.

    Raises:
      ValueError: if the config names modalities that there are not, or a patch does not fit.
      ValueError, OSError, ModuleNotFoundError: as `open_dataset`, if the data is opened.
    """
    shapes: Mapping[str, tuple[int, ...]]
    match config:
        case WatchData():
            # Deferred: TFDS takes a second to import.
            from sft_jax.data.watch import whole_samples

            window = whole_samples("window_seconds", config.window_seconds)
            shapes, outputs = recordings.window_shapes(window), len(recordings.EXERCISES)
        case AvMnistData():
            shapes, outputs = av_mnist.AvMnistOptions().shapes, len(av_mnist.CLASS_NAMES)
        case VggSoundData():
            shapes, outputs = vggsound_files.SHAPES, config.classes
        case SentimentData():
            shapes = sentiment_files.published_shapes(config.name, config.variant)
            outputs = len(registry.SENTIMENTS) if config.target == "classes" else 1
        case _:
            info = registry.open_dataset(config).info
            return Outline(info.modalities, len(info.class_names), info.task)
    return Outline(registry.modality_specs(config, shapes), outputs, _task(config))


def _task(config: DataConfig) -> Task:
    if isinstance(config, SentimentData):
        return "ordinal" if config.target == "classes" else "regression"
    return "single_label"
