"""Model cards: what a model takes and gives, for people who find its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sft_jax.data.dataset import DatasetInfo
from sft_jax.export.derived import sentences

_TASKS = {
    "single_label": "one class of",
    "ordinal": "one of the ordered classes",
    "multi_label": "any number of the labels",
    "regression": "the numbers",
}

_TEXT = """---
library_name: sft_jax
license: unknown
tags:
- multimodal
- jax
- sparse-fusion-transformer
---

# {model} for {modalities}

Predicts {task} {names}.

| input | shape | mean of each feature | deviation |
| --- | --- | --- | --- |
{rows}

Inputs are raw values, not standardised; sequences may be shorter. A modality may be absent.{more}

{count:,} parameters; {kept}. Trained on {examples} examples with sft_jax {version}.

## Use

```python
import sft_jax

classifier = sft_jax.load("OWNER/NAME")  # of the hub, or the path of this folder
classifier.predict({{{arguments}}})
```

## Limits

The data, its licence and the people or things it describes are not known to the program that wrote
this card. Please add them, and the accuracy that was measured.

## Citation

Ding et al. 2021, Sparse Fusion for Multimodal Transformers,
[arXiv 2111.11992](https://arxiv.org/abs/2111.11992).
"""


def model_card(info: DatasetInfo, config: Mapping[str, Any], count: int) -> str:
    """Text of the card of a model, in Markdown with the hub's header.

    Args:
      info: Description of the data.
      config: Metadata of the export.
      count: Number of parameters.
    """
    k = config["k"]
    rows = [
        f"| `{name}` | {' x '.join(map(str, spec.shape))} | {_numbers(info.statistics[name].mean)}"
        f" | {_numbers(info.statistics[name].std)} |"
        for name, spec in info.modalities.items()
    ]
    return _TEXT.format(
        model=config["model"],
        modalities=", ".join(info.modalities),
        task=_TASKS[config["task"]],
        names=", ".join(info.class_names),
        rows="\n".join(rows),
        count=count,
        kept=" and ".join(f"{k[n]} tokens of {n} are fused" for n in k) if k else "no pooling",
        examples=f"{info.num_examples.get('train', 0):,}",
        version=config["sft_jax"],
        more="".join(f" {text}." for text in sentences(info.derived, info.derived)),
        arguments=", ".join(f'"{n}": {n}' for n in info.modalities if n not in info.derived),
    )


def _numbers(values: tuple[float, ...]) -> str:
    some = [f"{value:.4g}" for value in values[:8]]
    return ", ".join(some) + (", ..." if len(values) > len(some) else "")
