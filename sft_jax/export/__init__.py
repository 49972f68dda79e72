"""Export: trained models as files that run without this library.

| format | file | runs with |
| --- | --- | --- |
| `stablehlo` | zip archive of a serialised program | jax without Flax; LiteRT and IREE by recipes |
| `onnx` | graph of standard operators | any ONNX runtime |
| `c` | C99 source without libc | any C compiler |
| `html` | web page with the C as WebAssembly | any browser |
| `safetensors` | folder of weights, config and model card | this library, and the hub |

An exporter is one function, `write(classifier, path, *, k=None, quantize=None)`, and one entry of
`EXPORTERS`. It returns a `sft_jax.export.written.Written`, which runs the written file itself.
Raw values go in: standardisation, patches and masks are part of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sft_jax import plugins
from sft_jax.export.features import Exporter, features
from sft_jax.export.written import Classifier, Written
from sft_jax.modules import MODELS
from sft_jax.ops.pool import POOLS
from sft_jax.runs import storage

Quantize = Literal["int8"]

_OURS: Mapping[str, tuple[str, ...]] = {
    "model": tuple(MODELS),
    "pool": tuple(name for name, pool in POOLS.items() if not pool.joint),
    "attention": ("dense",),
    "tokens": ("patches",),
    "dtype": ("float32",),
    "windows": ("adaptive",),
    "blocks": ("all",),
}

_C: Mapping[str, tuple[str, ...]] = {
    **_OURS,
    "model": ("sft",),
    "pool": ("max", "avg", "attn", "attn_topk", "attn_wkmedoids", "channel_topk", "evit", "none"),
    "saliency": ("received", "from_cls"),
}

EXPORTERS: Mapping[str, Exporter] = {
    "stablehlo": Exporter(
        write="sft_jax.export.stablehlo:write",
        read="sft_jax.export.stablehlo:read",
        ending=".stablehlo",
        extra="export",
    ),
    "onnx": Exporter(
        write="sft_jax.export.onnx:write",
        read="sft_jax.export.onnx:read",
        ending=".onnx",
        extra="onnx",
        takes=_OURS,
        quantizes=True,
        any_k=True,
    ),
    "c": Exporter(
        write="sft_jax.export.c:write",
        read="sft_jax.export.c:read",
        ending=".c",
        takes=_C,
        quantizes=True,
        any_k=True,
    ),
    "html": Exporter(
        write="sft_jax.export.html:write",
        ending=".html",
        takes={**_C, "axes": ("1", "2")},
        quantizes=True,
        any_k=True,
        shows_examples=True,
    ),
    "safetensors": Exporter(
        write="sft_jax.export.safetensors:write",
        read="sft_jax.export.safetensors:read",
        extra="safetensors",
        takes={"windows": ("adaptive",), "blocks": ("all",)},
    ),
}
"""Our exporters by the name that `export.py --format` takes."""


def find_exporter(format: str) -> Exporter:
    """Finds an exporter by name.

    Raises:
      ValueError: If there is none of that name.
    """
    if format not in EXPORTERS:
        raise ValueError(f"--format={format!r}: {plugins.suggest(format, [*EXPORTERS])}")
    return EXPORTERS[format]


def supported(classifier: Classifier, format: str) -> str | None:
    """Tells why a format can't hold a model.

    Args:
      classifier: Model with its parameters and data.
      format: Name of a format.

    Returns:
      The reason, with the formats that take the model; None if this one does.

    Raises:
      ValueError: If there is no such format.
    """
    own = features(classifier.model)
    if not (problems := find_exporter(format).problems(own)):
        return None
    others = [name for name, exporter in EXPORTERS.items() if not exporter.problems(own)]
    return (
        f"--format={format} does not take {'; nor '.join(problems)}. Formats that take this model:"
        f" {', '.join(others) or 'none'}"
    )


def check_local(path: Any) -> None:
    """Raises ValueError for a path in a bucket, where other libraries could not open the file."""
    if storage.in_bucket(path):
        raise ValueError(f"{path} is in a bucket: give a local path, and copy the file")


def write(
    classifier: Classifier, path: Any, format: str, *, k: Any = None, quantize: str | None = None
) -> Written:
    """Writes a model in a format, without comparing the file with the model.

    `sft_jax.export.command.export_run` compares as well.

    Args:
      classifier: Model with its parameters and data.
      path: File to write, with the ending of the format; a folder for `safetensors`.
      format: Name of a format.
      k: Number of tokens kept of each modality, for all or by name; by default the model's.
      quantize: `int8` for weights in 8 bits, None for float32.

    Raises:
      ValueError: If there is no such format, it can't hold the model, or `k` or `quantize` is out
        of range. Also for a path in a bucket or with another ending.
      ModuleNotFoundError: If a package of the format is not installed; names the extra.
    """
    exporter = find_exporter(format)
    check_local(path)
    exporter.check_ending(format, path)
    exporter.check_quantize(format, quantize)
    if reason := supported(classifier, format):
        raise ValueError(reason)
    return exporter.load("write", format)(classifier, path, k=k, quantize=quantize)


def read(path: Any, format: str) -> Written:
    """Opens an exported file, to run it.

    Raises:
      ValueError: If there is no such format, or none that can be opened in Python. Also for a path
        in a bucket.
      ExportedFileError: If the file is of another format or version.
      ModuleNotFoundError: If a package of the format is not installed; names the extra.
    """
    exporter = find_exporter(format)
    check_local(path)
    if not exporter.read:
        raise ValueError(f"files of --format={format} can't be opened in Python")
    return exporter.load("read", format)(path)
