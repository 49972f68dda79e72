"""Tables of time, memory and operations."""

from __future__ import annotations

from typing import Any

from benchmarks.tables.results import load, spread, table


def cells(model: dict[str, Any]) -> list[str]:
    """MFLOPs of one example, ms of a training step, MiB that training adds to the process."""
    return [
        f"{model['forward_flops'] / 1e6:,.0f}",
        f"{model['train_step_seconds'] * 1e3:,.0f}",
        f"{model['train_peak_rss_bytes'] / 2**20:,.0f}",
    ]


def costs(file: str) -> str:
    """Cost of the models of a file of `python -m sft_jax.profile`."""
    names = {"sft": "SFT", "mbt": "MBT", "late": "late fusion"}
    rows = [
        [names[name], *cells(model), f"{model['latency_seconds'] * 1e3:.0f}"]
        for name, model in load(file)["models"].items()
    ]
    header = ["model", "MFLOPs", "ms per training step", "MiB of training", "ms per example"]
    return table(header, rows)


def growth(file: str) -> str:
    """Exponents by which time and memory of one self-attention grow with the sequence."""
    names = {"exact": "exact, in tiles", "sparse": "windows", "plain": "exact, `plain`"}
    rows = []
    for kind, measured in load(file)["kinds"].items():
        slope = measured["slopes"][-1]
        shortest, longest = slope["lengths"]
        figures = [f"{slope[key]:.2f}" for key in ("cpu_seconds", "temporary_bytes")]
        rows.append([names[kind], f"{shortest:,} to {longest:,}", *figures])
    return table(["attention", "tokens", "time", "memory"], rows)


def elastic_step(file: str) -> str:
    """Cost of a training step of each elastic model, beside that of other rows of its set."""
    rows = [
        [title, f"`{other}`", spread(ratio)]
        for title, measured in load(file).items()
        if isinstance(measured, dict) and "elastic_over" in measured
        for other, ratio in measured["elastic_over"].items()
    ]
    return table(["elastic model", "compared with", "elastic step over it, median (range)"], rows)


def edge(file: str) -> str:
    """Cost of a window by runtime: for each k, and the rest for that of the training."""
    result = load(file)
    own, budgets = str(result["k"]), list(result["rows"]["jax"]["k"])
    rows = []
    for row in result["rows"].values():
        figures = row["k"][own]
        line = [row["title"], f"{row['bytes'] / 1e3:,.0f}"]
        for k in budgets:
            line.append(f"{row['k'][k]['wall']['median']:,.0f}" if k in row["k"] else "—")
        difference = f"{figures['largest_difference']:.2g}".replace("e-0", "e-")
        line += [f"{figures['ratio']['median']:.2f}", difference]
        same = f"{figures['same_class']:,} of {result['n_examples']:,}"
        rows.append([*line, same, f"{figures['accuracy']:.4f}"])
    times = [f"µs, k = {k}" for k in budgets]
    compared = [f"over JAX, k = {own}", "difference", "same class", "accuracy"]
    skipped = "".join(f"\n\n{name}: {reason}." for name, reason in result["skipped"].items())
    return table(["runtime", "kB", *times, *compared], rows) + skipped


def first_prediction(file: str) -> str:
    """Seconds from the start of a process to its first prediction, and their parts."""
    kinds = load(file)["seconds"]
    rows = [[kind, *map(spread, row.values())] for kind, row in kinds.items()]
    return table(["cache", *kinds["cold"]], rows)


def against_torch(file: str) -> str:
    """CPU time and memory of the model in PyTorch, over and beside ours."""
    titles = {"vggsound": "VGGSound", "mosei": "CMU-MOSEI"}
    kinds = {"exact": "exact", "sparse": "windows", "bfloat16": "exact, ours in bfloat16"}
    rows = []
    for name, title in titles.items():
        measured = load(file)["data"][name]
        for kind, label in kinds.items():
            ratio, memory = measured["torch_over_ours"][kind], measured["memory"]["of"]
            torch, ours = memory["torch"]["growth_mib"], memory[kind]["growth_mib"]
            rows.append([
                f"{title}, {label}",
                *(spread(ratio[work]["cpu"], 1) for work in ("train", "infer")),
                f"{torch:,.0f} against {ours:,.0f} MiB",
            ])  # fmt: skip
    return table(["", "training step", "inference", "memory of training"], rows)


def compilation(file: str) -> str:
    """Seconds until the first training step is done."""
    titles = {
        "product": "as it is",
        "unrolled": "each fused block compiled by itself",
        "second start": "a later start, from the cache",
    }
    measured = load(file)["seconds"]
    rows = [
        [title, *(f"{measured[name][clock]['total']:.0f}" for clock in ("cpu", "wall"))]
        for name, title in titles.items()
    ]
    return table(["VGGSound", "s of CPU time", "s"], rows)


def throughput(file: str) -> str:
    """Batches that the input pipeline makes, beside those that are trained on."""
    data = load(file)["data"]
    lengths = ", ".join(sorted({f"{row['sleep_ms']:g}" for row in data.values()}))
    waiting = ["% of training spent waiting", f"% beside a step of {lengths} ms"]
    rows = []
    for name, row in data.items():
        made, trained = row["pipeline_batches_per_second"], row["train_steps_per_second"]
        training, asleep = row["share_waiting_for_input"], row["share_waiting_beside_sleep"]
        waits = f"{100 * training:.2f}", f"{100 * asleep:.0f}"
        rows.append([f"`configs/{name}.py`", f"{made:.0f}", f"{made / trained:.0f}", *waits])
    return table(["", "batches a second", "over training", *waiting], rows)


def mosei_memory(file: str) -> str:
    """Memory of preparing MOSEI at full size, and of training on it."""
    result = load(file)
    rows = [
        [row["phase"], f"{row['anonymous_gib']:.2f}", f"{row['seconds']:,.0f}"]
        for row in result["phases"]
    ]
    return table([f"a file of {result['file_gib']:.1f} GiB", "GiB of memory", "s"], rows)


def accelerator(file: str) -> str:
    """Training step and inference on an accelerator, by config, batch, dtype and kernel."""
    rows = []
    for row in load(file)["sections"]["step_cost"].values():
        if "train_step_seconds" in row:
            config = row["config"].removeprefix("configs/").removesuffix(".py:")
            setting = f"{row['batch_size']:,}, {row['dtype']}, `{row['attention_kernel']}`"
            times = [
                spread({k: 1e3 * v for k, v in row[key].items()}, 1)
                for key in ("train_step_seconds", "inference_seconds")
            ]
            memory = f"{row['memory_analysis']['temp_bytes'] / 2**20:,.0f}"
            rows.append([f"`{config}`", setting, *times, memory])
    header = ["config", "batch, dtype, `attention_kernel`", "training step, ms", "inference, ms"]
    return table([*header, "planned memory, MiB"], rows)


def attention(file: str) -> str:
    """Kernels of attention with their gradient on an accelerator, beside its roofline."""
    begin, end = "attention, bfloat16, batch 24, ", ", forward and backward"
    rows = [
        [
            f"`{name.removeprefix(begin).removesuffix(end)}`",
            f"{1e3 * row['seconds']['median']:.2f}",
            f"{100 * row['share_of_roofline']:.0f}",
        ]
        for name, row in load(file)["sections"]["roofline"].items()
        if name.startswith(begin) and name.endswith(end) and "saliency" not in name
    ]
    return table(["kernel", "ms", "% of the roofline"], rows)


def equality(file: str, precision: str) -> str:
    """Largest difference of models from the CPU, relative to the largest value.

    Args:
      file: File of results of an accelerator.
      precision: `highest` or `default`, the precision of products.
    """
    rows = load(file)["sections"]["equality"].values()
    largest = max(max(row[precision].values()) for row in rows if precision in row)
    return f"{largest:.1e}".replace("e-0", "e-")


def exported(file: str) -> str:
    """Sizes of exported files, and their differences from JAX."""
    files = load(file)["files"]
    kinds = ("float", "int8")
    c, html = ([files[f"{form}, {kind}"] for kind in kinds] for form in ("c", "html"))

    def size(key: str) -> list[str]:
        return [f"{row['sizes'][key] / 1e3:,.1f} kB" for row in c]

    rows = [
        ["constants", *size("constant_bytes")],
        ["constants and code, gcc -Os for this machine", *size("flash_bytes")],
        ["static memory", *size("ram_bytes")],
        [
            "multiply-accumulates of a window",
            *(f"{row['sizes']['multiply_accumulates'] / 1e6:.2f} million" for row in c),
        ],
        ["page", *(f"{sum(row['bytes'].values()) / 1e3:,.0f} kB" for row in html)],
        [
            "largest difference of a probability from JAX",
            *(f"{max(row['differences'].values()):.2g}".replace("e-0", "e-") for row in c),
        ],
        [
            "windows of the same class as in JAX",
            *(f"{row['same_class']:,} of {row['n_examples']:,}" for row in c),
        ],
        [f"{c[0]['score']} (JAX: {c[0]['jax']:.4f})", *(f"{row['exported']:.4f}" for row in c)],
    ]
    return table(["", *kinds], rows)
