"""Export of a run: the file is written, run again on examples, and kept if it is right."""

from __future__ import annotations

import hashlib
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from sft_jax import version
from sft_jax.export import check_local, find_exporter, supported
from sft_jax.export.comparison import compare
from sft_jax.export.derived import sentences
from sft_jax.export.opened import open_run
from sft_jax.runs import storage

LIMIT = 1e-4
"""Largest difference between the outputs of a file in float32 and those of JAX."""


class ExportError(ValueError):
    """A file whose outputs are not those of the model."""


def export_run(
    workdir: str | os.PathLike[str],
    format: str,
    out: str | os.PathLike[str],
    *,
    checkpoint: str = "best",
    k: int | Mapping[str, int] | None = None,
    stride: int = 1,
    quantize: str | None = None,
    examples: int | None = None,
    data_folders: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Exports a checkpoint of a run, and compares the file with JAX on the test split.

    A report is written beside the file, with `.json` added to its name.

    Args:
      workdir: Run directory.
      format: Name of one of `sft_jax.export.EXPORTERS`.
      out: File to write, with the ending of the format; a folder for `safetensors`.
      checkpoint: Name of the checkpoint: best, latest, or a step.
      k: Number of tokens kept of each modality, for all or by name; by default the model's.
      stride: Number of patches along each axis that become one token; the file then is of an
        ordinary model with larger patches (`sft_jax.modules.stride`).
      quantize: `int8` for weights in 8 bits. Then differences have no limit, and the report says
        how the score changes.
      examples: Number of random examples to compare on in place of the test split.
      data_folders: Present folders of the data; see `sft_jax.evaluation.run.evaluate_run`.

    Returns:
      The report as JSON values:

      * `file`, and its `metadata`;
      * `sha256` and `bytes` of each file, and `sizes`, other figures of the format;
      * `quantize`, `stride`, `checkpoint`, `step` and `parameters`;
      * `compared_on`, "test split" or "random examples";
      * all of `sft_jax.export.comparison.compare`;
      * `code`, the value of `sft_jax.version.code`.

    Raises:
      ExportError: If an output differs by more than `LIMIT`. After this and every other error
        there is no new file, and one of an earlier export stays.
      ValueError: If the format does not exist, can't hold the model, or an argument is out of
        range. Also for a run that can't be opened.
      OSError: If the file can't be written, before any work.
    """
    exporter = find_exporter(format)
    exporter.check_quantize(format, quantize)
    if examples is not None and examples < 1:
        raise ValueError(f"examples={examples} must be at least 1")
    check_local(out)
    exporter.check_ending(format, out)
    if examples is not None and exporter.shows_examples:
        raise ValueError(
            f"examples={examples}: --format={format} shows the test split, and random"
            " examples would mean nothing"
        )
    path = pathlib.Path(out)
    storage.prepare_file(_report_file(path))
    if path.is_dir() and not (format == "safetensors" and _may_replace(path)):
        raise ValueError(f"out={path} is a folder with other files; give another name")
    opened = open_run(
        workdir, checkpoint, stride=stride, examples=examples, data_folders=data_folders
    )
    if reason := supported(opened.classifier, format):
        raise ValueError(reason)
    shown = {"dataset": opened.dataset} if exporter.shows_examples else {}
    # What is not compared yet never has the name that was asked for.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        made = pathlib.Path(folder) / path.name
        file = exporter.load("write", format)(
            opened.classifier, made, k=k, quantize=quantize, **shown
        )
        compared = compare(opened.classifier, file, opened.dataset, k=k)
        _check(compared, path, quantize)
        _move(made, path)
    report = {
        "file": path.name,
        "metadata": file.metadata,
        **_contents(path),
        "sizes": dict(file.sizes),
        "quantize": quantize,
        "stride": stride,
        "checkpoint": checkpoint,
        "step": opened.step,
        "parameters": opened.parameters,
        "compared_on": "test split" if opened.real else "random examples",
        **compared,
        "code": version.code(),
    }
    storage.write_json(_report_file(path), report)
    return report


def summary(report: Mapping[str, Any]) -> str:
    """Lines about an export, for a terminal."""
    rules = report["metadata"]["dataset"].get("derived", {})
    lines = [
        f"{report['file']}: {sum(report['bytes'].values()):,} bytes",
        *(f"{name.replace('_', ' ')}: {size:,}" for name, size in report["sizes"].items()),
        *(f"input {text}" for text in sentences(rules, report["metadata"].get("computed", ()))),
        f"compared with JAX on {report['n_examples']:,} examples ({report['compared_on']}):",
    ]
    lines += [
        f"  largest difference, {case}: {difference:.2g}"
        for case, difference in report["differences"].items()
    ]
    if report["same_class"] is not None:
        lines.append(f"  same class: {report['same_class']:,} of {report['n_examples']:,}")
    if report["compared_on"] == "test split":
        score, before, after = (report[name] for name in ("score", "jax", "exported"))
        change = f"{after - before:+.4f}"
        lines.append(f"  {score}: {before:.4f} in JAX, {after:.4f} exported ({change})")
    return "\n".join(lines)


def _report_file(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.json")


def _may_replace(path: pathlib.Path) -> bool:
    """True for an empty folder, and for one that an export has made."""
    return not any(path.iterdir()) or _report_file(path).exists()


def _check(compared: Mapping[str, Any], path: pathlib.Path, quantize: str | None) -> None:
    limit = float("inf") if quantize else LIMIT
    largest = compared["largest_difference"]
    # Infinite stands for outputs that are not finite.
    if not largest < limit:
        worst = max(compared["differences"], key=compared["differences"].get)
        raise ExportError(
            f"{path} is not kept: its outputs differ from JAX by up to {largest:.3g}"
            f" ({worst}), and the limit is {limit:g}"
        )


def _contents(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    contents = {
        file.relative_to(path.parent).as_posix(): file.read_bytes()
        for file in files
        if file.is_file()
    }
    return {
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        "bytes": {name: len(data) for name, data in contents.items()},
    }


def _move(made: pathlib.Path, path: pathlib.Path) -> None:
    """Moves a file or the files of a folder; others that a folder holds stay."""
    if not made.is_dir():
        made.replace(path)
        return
    path.mkdir(exist_ok=True)
    for file in made.iterdir():
        file.replace(path / file.name)
