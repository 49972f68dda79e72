"""Format `html`: one page that runs the C file as WebAssembly on recorded examples."""

from __future__ import annotations

import base64
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jax
import numpy as np

from sft_jax.data import pipeline
from sft_jax.data.dataset import Dataset
from sft_jax.export import c
from sft_jax.export.c.library import STRICT, Library, run_tool
from sft_jax.export.c.sizes import Sizes, multiply_accumulates
from sft_jax.export.comparison import stack
from sft_jax.export.opened import SPLIT
from sft_jax.export.program import raw_program
from sft_jax.export.written import Arrays, Classifier, Written, with_k
from sft_jax.version import __version__

MOST_EXAMPLES = 36
_LEAST_EXAMPLES = 6
_BYTES_OF_EXAMPLES = 175_000
_SELECTING = ("attn_topk", "attn_wkmedoids", "evit", "none")


def write(
    classifier: Classifier,
    path: str | pathlib.Path,
    *,
    k: int | Mapping[str, int] | None = None,
    quantize: str | None = None,
    dataset: Dataset,
) -> Written:
    """Writes a page that needs neither a server nor a library.

    It shows up to `MOST_EXAMPLES` examples, spread over the classes, fewer if they are large.

    Args:
      classifier: See `sft_jax.export.c.write`; modalities are sequences and images.
      path: File to write.
      k: Number of tokens kept at first; see `sft_jax.export.c.write`.
      quantize: See `sft_jax.export.c.write`.
      dataset: Dataset whose split `test` is shown.

    Returns:
      The page. What Python runs is the C of the page, compiled for this machine. Its `sizes` are
      `page_bytes`, `wasm_bytes` and those of `sft_jax.export.c.source`.

    Raises:
      ValueError: If `k` is out of range, or a parameter is not finite.
      CompilerError: If there is no clang, or none with the target wasm32.
    """
    path = pathlib.Path(path)
    chosen = with_k(classifier, k)
    described = c.describe(chosen, "html")
    text, sizes = c.source(chosen, described, quantize=quantize)
    with tempfile.TemporaryDirectory() as folder:
        code = pathlib.Path(folder) / "model.c"
        code.write_text(text)
        wasm = compile_wasm(code, chosen.model)
        library = Library(code, described["inputs"], len(chosen.info.class_names))
        library.load()
    data = page_data(chosen, described, dataset) | {
        "weights": quantize or "float",
        "version": __version__,
        "wasm": _base64(wasm),
    }
    path.write_text(_page(data))
    sizes |= {"page_bytes": path.stat().st_size, "wasm_bytes": len(wasm)}
    return Written(path, described, library.run, sizes)


def compile_wasm(code: pathlib.Path, model: Any) -> bytes:
    """Compiles a C file and the exports of a page, `parts/exports.c`, to WebAssembly.

    Args:
      code: File of format `c`.
      model: Model of the file.

    Raises:
      CompilerError: If there is no clang, or none with the target wasm32.
    """
    specs = model.modalities.values()
    positions = [math.prod(spec.lengths) for spec in specs]
    values = [n * spec.features for n, spec in zip(positions, specs, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        whole, output = (os.path.join(folder, name) for name in ("page.c", "page.wasm"))
        pathlib.Path(whole).write_text(
            f"{code.read_text()}\n#define PAGE_VALUES {sum(values)}\n"
            f"#define PAGE_POSITIONS {sum(positions)}\n{_fixed('exports.c')}"
        )
        target = ("--target=wasm32", "-msimd128", "-O3", "-nostdlib")
        linker = ("-Wl,--no-entry", "-Wl,--strip-all", "-Wl,-z,stack-size=16384")
        run_tool("clang", *STRICT, *target, *linker, "-o", output, whole)
        return pathlib.Path(output).read_bytes()


def page_data(
    classifier: Classifier, described: Mapping[str, Any], dataset: Dataset
) -> dict[str, Any]:
    """Values of the page except the program, as JSON.

    Args:
      classifier: Model with the `k` of the page.
      described: Metadata of the page.
      dataset: Dataset whose split `test` is shown.
    """
    model, info = classifier.model, classifier.info
    labels = pipeline.stack_labels(dataset.source(SPLIT))
    rows = chosen_rows(labels, info.example_bytes)
    batch = stack(dataset, rows)
    inputs, masks = batch.raw, batch.masks
    own = described["k"]
    sizes = Sizes.from_model(model)
    return {
        "task": model.task,
        "classes": list(info.class_names),
        "modalities": [
            {
                "name": name,
                "lengths": spec.lengths,
                "features": spec.features,
                "patch": spec.patch_sizes,
                "tokens": spec.num_tokens,
                "derived": " of ".join(info.derived.get(name, "").rsplit(":", 1)),
            }
            for name, spec in sorted(info.modalities.items())
        ],
        "k": [
            own[name] if own else spec.num_tokens for name, spec in sorted(info.modalities.items())
        ],
        "free_k": own is not None,
        "least_k": sizes.least_k,
        "selects": model.pool in _SELECTING,
        "multiply_accumulates": [
            multiply_accumulates(model, dict.fromkeys(inputs, k)) for k in range(sizes.tokens + 1)
        ],
        "ids": [str(dataset.source(SPLIT)[i]["id"]) for i in rows],
        "labels": labels[rows].tolist(),
        "values": _base64(_flat(inputs, np.float32)),
        "masks": _base64(_flat(masks, np.uint8)),
        "expected": _base64(
            np.asarray(jax.jit(raw_program(classifier))(inputs, masks), "<f4").tobytes()
        ),
    }


def chosen_rows(labels: np.ndarray, example_bytes: int) -> list[int]:
    """Chooses examples, spread evenly over the classes or the split.

    Args:
      labels: `[n]` classes, or `[n, c]` labels or numbers.
      example_bytes: Size of an example.

    Returns:
      Their positions, in the order of the classes.
    """
    most = max(_BYTES_OF_EXAMPLES // example_bytes, _LEAST_EXAMPLES)
    count = min(most, MOST_EXAMPLES, len(labels))
    order = np.argsort(labels, kind="stable") if labels.ndim == 1 else np.arange(len(labels))
    return order[np.linspace(0, len(order) - 1, count).round().astype(int)].tolist()


def _flat(arrays: Arrays, dtype: Any) -> bytes:
    """Puts the modalities of each example one after the other, in the order of the names."""
    flat = [arrays[name].reshape(len(arrays[name]), -1) for name in sorted(arrays)]
    return np.concatenate(flat, axis=1).astype(np.dtype(dtype).newbyteorder("<")).tobytes()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _page(data: Mapping[str, Any]) -> str:
    """Fills in the page; a name that holds `</script>` must not end the data."""
    parts = {
        "STYLE": _fixed("page.css"),
        "SCRIPT": _fixed("page.js"),
        "DATA": json.dumps(data).replace("</", "<\\/").replace("<!--", "\\u003c!--"),
    }
    page = _fixed("page.html")
    for name, text in parts.items():
        page = page.replace(f"/* {name} */", text)
    return page


def _fixed(name: str) -> str:
    return (resources.files("sft_jax.export.html") / "parts" / name).read_text()
