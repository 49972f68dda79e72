"""Format `c`: one C99 file that needs no library."""

from __future__ import annotations

import json
import pathlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from sft_jax.export.c.folding import fold
from sft_jax.export.c.library import Library, code_sizes
from sft_jax.export.c.sizes import Sizes, multiply_accumulates
from sft_jax.export.c.tables import Tables
from sft_jax.export.derived import sentences, summaries
from sft_jax.export.written import (
    Classifier,
    Written,
    metadata,
    read_metadata,
    with_k,
)
from sft_jax.modules.sft import SparseFusionTransformer
from sft_jax.version import __version__

POOLS: Mapping[str, Sequence[str]] = {
    "max": ["pool_max"],
    "avg": ["pool_avg"],
    "attn": ["pool_attn"],
    "attn_topk": ["select_salient", "pool_attn_topk"],
    "attn_wkmedoids": ["pool_attn_wkmedoids"],
    "channel_topk": ["pool_channel_topk"],
    "evit": ["select_salient", "pool_evit"],
    "none": ["pool_none"],
}
READOUTS: Mapping[str, Sequence[str]] = {
    "sum_cls": ["enter_sum", "read_first"],
    "fresh_cls": ["enter_fresh", "read_first"],
    "modality_cls": ["enter_each", "read_entering"],
    "mean": ["enter_sum", "read_mean"],
    "attention": ["enter_sum", "read_attention"],
}
HEADS: Mapping[str, Sequence[str]] = {
    "single_label": ["head_single_label"],
    "multi_label": ["sigmoid", "head_multi_label"],
    "ordinal": ["sigmoid", "head_ordinal"],
    "regression": ["head_regression"],
}
"""Files of `parts` by pool, readout and task."""

_OUTPUTS = {
    "single_label": "probabilities of the classes",
    "multi_label": "probability of each label",
    "ordinal": "probabilities of the ordered classes",
    "regression": "predicted numbers",
}
_METADATA = "Metadata: "


def write(
    classifier: Classifier,
    path: str | pathlib.Path,
    *,
    k: int | Mapping[str, int] | None = None,
    quantize: str | None = None,
) -> Written:
    """Writes a classifier as one C file.

    Args:
      classifier: Sparse Fusion Transformer, with a pool of `POOLS`.
      path: File to write.
      k: Number of tokens kept by default, for all modalities or by name; None for the model's.
      quantize: `int8` for weights of 8 bits; None for float.

    Returns:
      The file. Its `sizes` are

      * `constant_bytes`, all numbers of the model;
      * `flash_bytes`, constants and code, as gcc -Os compiles them for this machine; left out
        without gcc;
      * `ram_bytes`, the static buffers;
      * `multiply_accumulates` of an example of full length.

    Raises:
      ValueError: If `k` is out of range, or a parameter is not finite.
    """
    path = pathlib.Path(path)
    described = describe(with_k(classifier, k), "c")
    text, sizes = source(classifier, described, quantize=quantize)
    path.write_text(text)
    return Written(path, described, _library(path, described).run, sizes | code_sizes(path))


def read(path: str | pathlib.Path) -> Written:
    """Opens a C file that `write` made, to run it.

    Raises:
      ExportedFileError: If it is another file, or of another version.
    """
    path = pathlib.Path(path)
    comment = path.read_text(errors="replace").split("*/")[0]
    lines = (line.strip() for line in comment.splitlines())
    text = next((x.removeprefix(_METADATA) for x in lines if x.startswith(_METADATA)), None)
    described = read_metadata(text, "c", path)
    return Written(path, described, _library(path, described).run)


def describe(classifier: Classifier, format: str) -> dict[str, Any]:
    """Makes the metadata of a file, `sft_jax.export.written.metadata`.

    Args:
      classifier: Model with the `k` of the file.
      format: Name of the format, `c` or one that holds such a file.
    """
    computed = summaries(classifier.info.derived, classifier.model.modalities)
    return metadata(classifier, format, any_k=True, computed=[*computed])


def source(
    classifier: Classifier, described: Mapping[str, Any], *, quantize: str | None = None
) -> tuple[str, dict[str, int]]:
    """Makes the text of a C file, and the sizes that can be computed without a compiler.

    Args:
      classifier: See `write`.
      described: Metadata of the file.
      quantize: See `write`.
    """
    model, info = classifier.model, classifier.info
    sources = summaries(info.derived, model.modalities)
    sizes = Sizes.from_model(model, sources)
    kept = described["k"] or {name: spec.num_tokens for name, spec in model.modalities.items()}
    tables = Tables(int8=quantize == "int8", axes=sizes.axes)
    tables.add_model(fold(model, classifier.params), model.modalities, info.statistics, kept)
    computed = {
        "constant_bytes": tables.constant_bytes,
        "ram_bytes": sizes.ram_bytes,
        "multiply_accumulates": multiply_accumulates(model, kept),
    }
    parts = [
        _comment(model, info.class_names, quantize, computed, described),
        _interface(model),
        sizes.defines(),
        _fixed(f"weights_{quantize or 'float'}", "tables"),
        "\n".join(tables.lines) + "\n\n",
        _fixed("core", *POOLS[model.pool], *READOUTS[model.readout], *HEADS[model.task]),
        _sources(model, sources) + _fixed("summary") if sources else _fixed("given"),
        _fixed("predict"),
    ]
    return "".join(parts), computed


def _library(path: pathlib.Path, described: Mapping[str, Any]) -> Library:
    return Library(path, described["inputs"], len(described["dataset"]["class_names"]))


def _fixed(*names: str) -> str:
    folder = resources.files("sft_jax.export.c") / "parts"
    return "".join((folder / f"{name}.c").read_text() for name in names)


def _comment(
    model: SparseFusionTransformer,
    class_names: Sequence[str],
    quantize: str | None,
    computed: Mapping[str, int],
    described: Mapping[str, Any],
) -> str:
    """Comment at the beginning of the file."""
    specs = {name: model.modalities[name] for name in sorted(model.modalities)}
    rules = described["dataset"].get("derived", {})
    lines = [
        f"Sparse Fusion Transformer, written by sft_jax {__version__}.",
        "",
        "Inputs in this order, [positions][features], as measured:",
        *(f"  {name} {list(spec.shape)}, {spec.num_tokens} tokens" for name, spec in specs.items()),
        f"Outputs, {_OUTPUTS[model.task]}, in this order:",
        *(f"  {json.dumps(name)}" for name in class_names),
        f"Model: pool {model.pool}, saliency {model.saliency}, readout {model.readout}, "
        f"width {model.width}, {model.num_heads} heads, {model.n_pre} + {model.n_post} blocks",
        f"Weights: {quantize or 'float'}, {computed['constant_bytes']} bytes of constants",
        f"RAM: {computed['ram_bytes']} bytes of static variables",
        f"Multiply-accumulates: {computed['multiply_accumulates']} with k = {described['k']}",
        *(f"Input {text}" for text in sentences(rules, described.get("computed", ()))),
        _METADATA + json.dumps(described),
    ]
    # A name must neither end the comment nor begin another; JSON has another spelling.
    text = "\n".join(lines).replace("*/", "\\u002a/").replace("/*", "/\\u002a")
    return f"/*\n{textwrap.indent(text, '   ')}\n*/\n"


def _interface(model: SparseFusionTransformer) -> str:
    """Declarations of the file."""
    names = [f"SFT_INPUT_{_ascii(name)}" for name in sorted(model.modalities)]
    return f"""#define SFT_MODALITIES {len(names)}
#define SFT_OUTPUTS {model.num_classes}
#define SFT_TOKENS {sum(spec.num_tokens for spec in model.modalities.values())}
enum {{ {", ".join(names)} }};

{_fixed("interface")}"""


def _sources(model: SparseFusionTransformer, sources: Mapping[str, str]) -> str:
    """Table of the modality that each one is computed from, -1 for none."""
    names = sorted(model.modalities)
    rows = [names.index(sources[name]) if name in sources else -1 for name in names]
    return f"static const int sources[SFT_MODALITIES] = {{{', '.join(map(str, rows))}}};\n"


def _ascii(name: str) -> str:
    """Name with `_u` and a number for each letter that C may not know."""
    return re.sub(r"[^A-Za-z0-9_]", lambda letter: f"_u{ord(letter[0])}", name)
