"""Draws the pictures of the documentation into docs/images.

python docs/draw_pictures.py

Needs matplotlib. The pictures are committed, since the README shows one of them.
"""

from __future__ import annotations

import json
import pathlib

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

DOCS = pathlib.Path(__file__).parent
IMAGES = DOCS / "images"
RESULTS = DOCS.parent / "benchmarks" / "results"

TEAL, AMBER, VIOLET, ROSE = "#0f766e", "#d97706", "#6d28d9", "#be123c"
INK, GREY, PALE, PANEL = "#1f2937", "#6b7280", "#e5e7eb", "#f3f4f6"
SALIENCY = (0.3, 1.0, 0.2, 0.35, 0.9, 0.25, 0.2, 0.4, 0.3, 0.95, 0.2, 0.3, 0.85, 0.25, 0.35, 0.2)


def tint(color: str, strength: float) -> tuple[float, ...]:
    """Mixes a colour with white; strength 1 leaves it as it is."""
    return tuple(1 - strength * (1 - channel) for channel in mpl.colors.to_rgb(color))


def canvas(width: float, height: float) -> tuple[plt.Figure, Axes]:
    """A white figure whose data units are tenths of an inch."""
    figure = plt.figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width * 10), ylim=(0, height * 10), aspect="equal")
    axes.axis("off")
    return figure, axes


def token(axes: Axes, x: float, y: float, color: object, size: float = 2.2, **style: object):
    """A token: a rounded square whose lower left corner is at (x, y)."""
    style = {"edgecolor": "white", "linewidth": 1.0, **style}
    box = FancyBboxPatch(
        (x, y), size, size, boxstyle="round,pad=0,rounding_size=0.5", facecolor=color, **style
    )
    axes.add_patch(box)


def cls(axes: Axes, x: float, y: float, color: object, size: float = 2.2):
    """A CLS token: a circle."""
    axes.add_patch(plt.Circle((x + size / 2, y + size / 2), size / 2, color=color))


def panel(axes: Axes, x: float, y: float, width: float, height: float, text: str, color=GREY):
    """A box for a stage of the network, with its name above."""
    box = FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=1",
        facecolor=PANEL,
        edgecolor=PALE,
        linewidth=1.2,
        zorder=0,
    )
    axes.add_patch(box)
    axes.text(x + width / 2, y + height + 1, text, ha="center", va="bottom", color=color, size=10)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color=GREY):
    """An arrow between two points."""
    style = {"arrowstyle": "-|>", "mutation_scale": 11, "linewidth": 1.3, "color": color}
    axes.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **style))


def fusion() -> plt.Figure:
    """Many tokens of two modalities, pooled to a few, fused and classified."""
    figure, axes = canvas(11, 3.55)
    rows = {"image": (24, TEAL, SALIENCY), "sound": (10.5, AMBER, SALIENCY[5:] + SALIENCY[:5])}
    panel(axes, 1.5, 4.8, 30, 26.7, "tokens of each modality")
    panel(axes, 37, 4.8, 14.5, 26.7, "blocks of each modality")
    panel(axes, 79.5, 4.8, 15, 26.7, "fusion blocks")
    axes.text(65.5, 32.5, "pooling to k tokens", ha="center", va="bottom", color=GREY, size=10)
    for name, (y, color, saliency) in rows.items():
        axes.text(3, y + 4.6, name, color=color, size=12, weight="bold")
        cls(axes, 3, y - 1.2, INK, 2.6)
        for i, strength in enumerate(saliency):
            row, column = divmod(i, 8)
            token(axes, 6.7 + 3 * column, y + 0.4 - 3 * row, tint(color, 0.25 + 0.75 * strength))
        arrow(axes, (32, y), (36.5, y))
        for i in range(2):
            box = (39 + 5.8 * i, y - 4)
            axes.add_patch(Rectangle(box, 4.6, 8, facecolor=tint(color, 0.55), edgecolor="white"))
        arrow(axes, (52, y), (56.5, y))
        funnel = [(57.5, y - 4.5), (57.5, y + 4.5), (63.5, y + 1.8), (63.5, y - 1.8)]
        axes.add_patch(Polygon(funnel, facecolor=tint(color, 0.3), edgecolor="white"))
        for i in range(3):
            token(axes, 65 + 2.9 * i, y - 1.1, color)
        arrow(axes, (74.3, y), (78.9, 17.5 + 0.38 * (y - 17)))
    for column, color in enumerate((TEAL, AMBER)):
        for i in range(3):
            token(axes, 83 + 4.6 * column, 20.8 - 3.6 * i, color, 3.0)
    cls(axes, 85.3, 24.8, INK, 3.2)
    axes.text(87, 28.9, "sum of CLS tokens", ha="center", color=GREY, size=8)
    axes.text(87, 6.3, "every token\nsees every other", ha="center", color=GREY, size=8)
    arrow(axes, (89.2, 26.4), (97.5, 26.4), INK)
    for i, height in enumerate((1.6, 3.4, 8.2, 2.4)):
        shade = INK if height > 8 else tint(INK, 0.35)
        axes.add_patch(Rectangle((99 + 2.2 * i, 22.8), 1.7, height, facecolor=shade))
    axes.text(103.2, 21.3, "logits", ha="center", va="top", color=GREY, size=10)
    cls(axes, 3, 1.4, INK, 1.8)
    axes.text(5.4, 2.3, "CLS token", va="center", color=GREY, size=8.5)
    for i, strength in enumerate((0.3, 0.65, 1)):
        token(axes, 15 + 2.3 * i, 1.4, tint(GREY, strength), 1.8)
    axes.text(22.4, 2.3, "more attention received", va="center", color=GREY, size=8.5)
    return figure


def pools() -> plt.Figure:
    """Twelve tokens at the top of each panel, and the four that a pool makes of them."""
    figure, grid = plt.subplots(2, 4, figsize=(11, 3.6), facecolor="white")
    figure.subplots_adjust(0.01, 0.0, 0.99, 0.95, 0.04, 0.1)
    x = [1.5 + 2.4 * i for i in range(12)]
    saliency = (0.3, 1.0, 0.2, 0.35, 0.2, 0.9, 0.25, 0.3, 0.8, 0.2, 0.7, 0.3)
    best = [1, 5, 8, 10]
    rest = [i for i in range(12) if i not in best[:3]]
    group = [0, 0, 1, 1, 0, 2, 2, 1, 3, 3, 3, 2]
    members = [[i for i in range(12) if group[i] == k] for k in range(4)]
    drawn = [2, 3, 7, 11]
    grouped = [(TEAL, AMBER, VIOLET, ROSE)[k] for k in group]
    by_saliency = [tint(TEAL, 0.25 + 0.75 * s) for s in saliency]
    plain = [tint(TEAL, 0.6)] * 12
    window = [range(3 * k, 3 * k + 3) for k in range(4)]
    evit = [[1], [5], [8], rest]
    everything = [range(12)] * 4
    panels = {
        "max, avg, attn: windows": (plain, window),
        "strided_random: one of each window": (plain, [[2], [3], [7], [11]]),
        "attn_topk: most attention received": (by_saliency, [[i] for i in best]),
        "random, attn_random: drawn": (plain, [[i] for i in drawn]),
        "attn_wkmedoids: centres of clusters": (grouped, [[0], [3], [6], [9]]),
        "tome: merges tokens that are alike": (grouped, members),
        "evit: the best, and the mean of the rest": (by_saliency, evit),
        "token_learner, perceiver: learned": (plain, everything),
    }
    for axes, (title, (colors, sources)) in zip(grid.flat, panels.items(), strict=True):
        axes.set(xlim=(0, 31), ylim=(1, 15), aspect="equal")
        axes.axis("off")
        axes.set_title(title, size=9.5, color=INK, pad=2)
        for i in range(12):
            token(axes, x[i], 12, colors[i], 1.8)
        merged = title.startswith(("tome", "attn_wk"))
        for k, indices in enumerate(sources):
            token(axes, 5.5 + 6 * k, 2, (TEAL, AMBER, VIOLET, ROSE)[k] if merged else TEAL, 2.6)
            width = 0.35 if len(indices) == 12 else 1.0
            for i in indices:
                ends = [x[i] + 0.9, 6.8 + 6 * k], [11.8, 4.8]
                axes.plot(*ends, color=GREY, linewidth=width, zorder=0)
    return figure


def masks() -> plt.Figure:
    """Three examples of a batch: full, with padding, and without one modality."""
    figure, axes = canvas(9, 2.9)
    lengths = {"full": (8, 10), "short sound": (8, 4), "no sound": (8, 0)}
    axes.text(29, 26.5, "image", color=TEAL, size=11, weight="bold", ha="center")
    axes.text(64, 26.5, "sound", color=AMBER, size=11, weight="bold", ha="center")
    for row, (name, (image, sound)) in enumerate(lengths.items()):
        y = 19.5 - 7 * row
        axes.text(2, y + 1.3, name, va="center", color=INK, size=10.5)
        for i in range(8):
            token(axes, 17 + 3 * i, y, tint(TEAL, 0.75 if i < image else 0.1), 2.5)
        for i in range(10):
            if i < sound:
                token(axes, 49 + 3 * i, y, tint(AMBER, 0.75), 2.5)
            else:
                style = {"edgecolor": "#9ca3af", "linewidth": 0.8, "linestyle": ":"}
                token(axes, 49 + 3 * i, y, "white", 2.5, **style)
        notes = ("", "padding: no effect", "absent: adds nothing")
        axes.text(80.5, y + 1.3, notes[row].replace(": ", ":\n"), va="center", color=GREY, size=8)
    return figure


def cost() -> plt.Figure:
    """Matrix products of one example by stage, from benchmarks/results/profile_vggsound.json."""
    models = json.loads((RESULTS / "profile_vggsound.json").read_text())["models"]
    stages = {
        "tokenizer": ("tokenizers", GREY),
        "unimodal": ("blocks of each modality", TEAL),
        "pre_pooling": ("attention before pooling", VIOLET),
        "fused": ("blocks from fusion on", AMBER),
    }
    names = {"sft": "SFT", "late": "late fusion", "mbt": "MBT"}
    figure, axes = plt.subplots(figsize=(9, 2.6), facecolor="white", layout="constrained")
    for row, name in enumerate(names):
        left = 0.0
        for stage, (label, color) in stages.items():
            width = models[name]["stage_flops"][stage] / 1e6
            bar = {"color": tint(color, 0.8), "label": label if row == 0 else None}
            axes.barh(row, width, left=left, height=0.62, edgecolor="white", **bar)
            left += width
        axes.text(left + 30, row, f"{left:,.0f}", va="center", color=INK, size=10)
    axes.set_yticks(range(len(names)), names.values(), size=11)
    axes.invert_yaxis()
    axes.set_xlabel("million floating-point operations for one example", color=GREY)
    axes.set_xlim(0, 3500)
    axes.tick_params(colors=INK, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.46, 1.0), fontsize=9)
    return figure


def mesh() -> plt.Figure:
    """The batch, the parameters and the heads on four devices, for each axis of the mesh."""
    figure, axes = canvas(10, 3.1)
    titles = {
        "data=4": ("a quarter of the batch,\nall parameters", TEAL, 1, 1),
        "fsdp=4": ("a quarter of the batch,\na quarter of the parameters", AMBER, 1, 4),
        "model=4": ("the whole batch,\na quarter of the heads", VIOLET, 4, 4),
    }
    for column, (title, (text, color, batch, parts)) in enumerate(titles.items()):
        x = 2 + 33 * column
        axes.text(
            x + 14, 27.5, f"mesh.{title}", ha="center", color=color, size=12, family="monospace"
        )
        axes.text(
            x + 14, 1.5, f"on each device: {text}", ha="center", color=GREY, size=9, linespacing=1.4
        )
        for device in range(4):
            left = x + 7.2 * device
            panel(axes, left, 8, 6.4, 17, "")
            for row in range(4):
                shown = batch == 4 or row == device
                shade = tint(INK, 0.7) if shown else "white"
                box = (left + 0.7, 22.6 - 1.9 * row)
                style = {"edgecolor": PALE, "linewidth": 0.8}
                axes.add_patch(Rectangle(box, 5, 1.5, facecolor=shade, **style))
            for row in range(4):
                shown = parts == 1 or row == device
                shade = tint(color, 0.75) if shown else "white"
                box = (left + 0.7 + 1.25 * row, 9)
                style = {"edgecolor": PALE, "linewidth": 0.8}
                axes.add_patch(Rectangle(box, 1.25, 6, facecolor=shade, **style))
    return figure


PICTURES = {"fusion": fusion, "pools": pools, "masks": masks, "cost": cost, "mesh": mesh}


def draw(folder: pathlib.Path = IMAGES) -> None:
    """Writes every picture as SVG; the same version of matplotlib writes the same bytes."""
    folder.mkdir(exist_ok=True)
    style = {"font.family": "DejaVu Sans", "svg.hashsalt": "sft_jax", "svg.fonttype": "path"}
    with mpl.rc_context(style):
        for name, picture in PICTURES.items():
            figure = picture()
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)


if __name__ == "__main__":
    draw()
