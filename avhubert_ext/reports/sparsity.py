"""Where the pruned weights of a model are: layer by layer, part by part, and as a heat map.

Counted from the pruning masks alone. They cover the prunable weights, those of linear and
convolution layers (see `compression/pruning.py`); all other parameters are dense and not in here.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avhubert_ext.checkpoints.model_file import read_masks
from avhubert_ext.compression.pruning import Masks
from avhubert_ext.data.files import write_text
from avhubert_ext.errors import InputError, printable
from avhubert_ext.reports.page import Section, as_text, pyplot, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# How the names of a part's weights begin -> the part. The parts are reported in this order.
PARTS = {
    r"(encoder\.)?feature_extractor_video": "visual frontend",
    r"encoder\.video\.frontend": "visual frontend",
    r"(encoder\.)?feature_extractor_audio": "audio frontend",
    r"encoder\.audio\.frontend": "audio frontend",
    r"encoder\.video\.projection": "video projection",
    r"encoder\.audio\.projection": "audio projection",
    r"(encoder\.)?post_extract_proj": "fusion",
    r"(encoder\.)?encoder\.layers": "encoder blocks",
    r"encoder\.video\.layers": "video encoder blocks",
    r"encoder\.audio\.layers": "audio encoder blocks",
    r"encoder\.fusion": "fusion",
    r"heads": "prediction heads",
    r"ctc": "CTC",
    r"bridge": "bridge",
    r"decoder(\.layers)?": "decoder",
}
OTHER = "other"
# What stands many times in a part: its place, a block's number or a frontend's stage and unit, and
# the name within.
REPEATED = re.compile(
    r"(?:(?:\w+\.)*(?:layer|stage)(?P<unit>\d+\.\d+)|(?P<block>\d+))\.(?P<kind>.+)"
)
# The kinds of weights by their names within a block, in the order in which a block computes.
KINDS = {
    "frontend3D.0": "stem",
    "trunk.conv1": "stem",
    "branch1.0": "branch 1, depthwise",
    "branch1.2": "branch 1, pointwise",
    "branch2.0": "branch 2, pointwise 1",
    "branch2.3": "branch 2, depthwise",
    "branch2.5": "branch 2, pointwise 2",
    "conv1": "convolution 1",
    "conv2": "convolution 2",
    "downsample.0": "shortcut",
    "conv5.0": "last convolution",
    "proj": "projection",
    "ffn1.fc1": "feed-forward 1, in",
    "ffn1.fc2": "feed-forward 1, out",
    "self_attn.q_proj": "self-attention, q",
    "self_attn.k_proj": "self-attention, k",
    "self_attn.v_proj": "self-attention, v",
    "self_attn.pos_proj": "self-attention, positions",
    "self_attn.out_proj": "self-attention, out",
    "encoder_attn.q_proj": "encoder attention, q",
    "encoder_attn.k_proj": "encoder attention, k",
    "encoder_attn.v_proj": "encoder attention, v",
    "encoder_attn.out_proj": "encoder attention, out",
    "conv.pointwise1": "convolution, pointwise 1",
    "conv.depthwise": "convolution, depthwise",
    "conv.pointwise2": "convolution, pointwise 2",
    "ffn2.fc1": "feed-forward 2, in",
    "ffn2.fc2": "feed-forward 2, out",
    "fc1": "feed-forward, in",
    "fc2": "feed-forward, out",
}
COLUMNS = ("name", "part", "kind", "block", "shape", "weights", "kept", "sparsity")

COLORS = "viridis"
BRIGHT = 0.6  # sparsity from which on a color is so bright that text on it must be black
# Of the picture, in inches.
CELL_WIDTH, CELL_HEIGHT = 0.5, 0.28
LABELS, TITLE, TICKS, MARGIN = 2.05, 0.35, 0.45, 0.2
COLOR_BAR = (0.15, 0.75)  # the bar, and its room with the labels


@dataclass(frozen=True)
class Count:
    """Prunable weights, and how many of them are kept."""

    weights: int
    kept: int

    @property
    def sparsity(self) -> float:
        return 1 - self.kept / self.weights


@dataclass(frozen=True)
class Layer(Count):
    """One prunable weight.

    kind: what it is within its block or part, empty where it is all of the part.
    block: a block's number from 0, or stage and unit of a visual frontend, as in the name; None
        where it stands once in its part.
    """

    name: str
    shape: tuple[int, ...]
    part: str
    kind: str
    block: str | None


@dataclass(frozen=True)
class Sum(Count):
    """Layers together: of a part, or with `kind` of those of a kind in it."""

    part: str
    kind: str | None
    layers: int


@dataclass(frozen=True)
class Grid:
    """A heat map: the layer at (row, column), where there is one; axis: what the columns are."""

    title: str
    axis: str
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], Layer]


def sparse_report(model: Path, out: Path | None = None) -> str:
    """The tables of the sparsity of a pruned model, or of masks alone, for a terminal.

    out: folder to write `sparsity.csv`, `.json` and `.png` to. Raises InputError for a dense model,
    and for what `read_masks` cannot read.
    """
    masks = read_masks(model)
    if not masks:
        raise InputError(
            f"{model}: nothing is pruned in it for good; name a pruned model, a mask, or prune it "
            "first"
        )
    layers = layers_of(masks)
    if out is not None:
        write_text(out / "sparsity.csv", as_csv(layers))
        write_text(out / "sparsity.json", json.dumps(as_json(model, layers), indent=2) + "\n")
        plot(layers, model.name, out / "sparsity.png")
    return text_tables(layers)


def layers_of(masks: Masks) -> list[Layer]:
    """The layers of the masks, part by part; within a part in the masks' order."""
    layers = [
        Layer(mask.numel(), int(mask.sum()), name, tuple(mask.shape), *place(name))
        for name, mask in masks.items()
    ]
    order = [*dict.fromkeys(PARTS.values()), OTHER]
    return sorted(layers, key=lambda layer: order.index(layer.part))


def place(name: str) -> tuple[str, str, str | None]:
    """Part, kind and block of a weight by its name, see `Layer`."""
    stem = name.removesuffix(".weight")
    for start, part in PARTS.items():
        match = re.fullmatch(rf"(?:{start})(?:\.(?P<rest>.+))?", stem)
        if match is None:
            continue
        rest = match["rest"] or ""
        if repeated := REPEATED.fullmatch(rest):
            return part, _kind(repeated["kind"]), repeated["unit"] or repeated["block"]
        return part, _kind(re.sub(r"^(resnet|shufflenet)\.", "", rest)), None
    return OTHER, stem, None


def _kind(name: str) -> str:
    return KINDS.get(name, name)


def sums(layers: list[Layer]) -> list[Sum]:
    """Of each part, followed by those of its kinds if it has several layers."""
    found = []
    for part in dict.fromkeys(layer.part for layer in layers):
        own = [layer for layer in layers if layer.part == part]
        found.append(_sum(own, part))
        if len(own) > 1:
            kinds = _in_order(layer.kind for layer in own)
            found += [_sum([one for one in own if one.kind == kind], part, kind) for kind in kinds]
    return found


def _sum(layers: list[Layer], part: str, kind: str | None = None) -> Sum:
    weights, kept = (sum(getattr(one, field) for one in layers) for field in ("weights", "kept"))
    return Sum(weights, kept, part, kind, len(layers))


def _in_order(kinds: Iterable[str]) -> list[str]:
    """Each kind once, in the order of KINDS; unknown ones last."""
    order = list(dict.fromkeys(KINDS.values()))
    key = {kind: place for place, kind in enumerate(order)}
    return sorted(dict.fromkeys(kinds), key=lambda kind: key.get(kind, len(order)))


def text_tables(layers: list[Layer]) -> str:
    """For a terminal: all layers, then the sums, then the total."""
    rows = [[layer.name, _shape(layer), *_numbers(layer)] for layer in layers]
    parts = [
        [one.part if one.kind is None else f"  {one.kind}", str(one.layers), *_numbers(one)]
        for one in sums(layers)
    ]
    total = _sum(layers, "all")
    parts.append([total.part, str(total.layers), *_numbers(total)])
    numbers = ["weights", "kept", "sparsity"]
    sections = [
        Section("Layers", ["name", "shape", *numbers], rows, []),
        Section("Parts", ["part", "layers", *numbers], parts, []),
    ]
    note = (
        f"{total.weights - total.kept:,} of {total.weights:,} prunable weights are pruned; biases, "
        "norms and embeddings are dense and not counted."
    )
    return as_text(sections, [note])


def _shape(layer: Layer) -> str:
    return "x".join(map(str, layer.shape))


def _numbers(count: Count) -> list[str]:
    return [f"{count.weights:,}", f"{count.kept:,}", f"{count.sparsity:.4f}"]


def as_csv(layers: list[Layer]) -> str:
    """A line a layer."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in layers:
        counts = [one.weights, one.kept, f"{one.sparsity:.6f}"]
        writer.writerow([one.name, one.part, one.kind, one.block, _shape(one), *counts])
    return buffer.getvalue()


def as_json(model: Path, layers: list[Layer]) -> dict[str, Any]:
    total = _sum(layers, "all")
    return {
        "model": str(model),
        **_counts(total),
        "parts": [
            {"part": one.part, "kind": one.kind, "layers": one.layers, **_counts(one)}
            for one in sums(layers)
        ],
        "layers": [
            {
                "name": one.name,
                "part": one.part,
                "kind": one.kind,
                "block": one.block,
                "shape": list(one.shape),
                **_counts(one),
            }
            for one in layers
        ],
    }


def _counts(count: Count) -> dict[str, float]:
    return {"weights": count.weights, "kept": count.kept, "sparsity": round(count.sparsity, 6)}


def grids(layers: list[Layer]) -> list[Grid]:
    """A heat map for each part with blocks, then one for all layers that stand alone."""
    found = []
    for part in dict.fromkeys(layer.part for layer in layers):
        cells = {(one.kind, one.block): one for one in layers if one.part == part and one.block}
        if cells:
            rows = _in_order(kind for kind, _ in cells)
            columns = list(dict.fromkeys(block for _, block in cells))
            axis = "stage and unit" if "." in columns[0] else "block"
            found.append(Grid(part, axis, rows, columns, cells))
    alone = {_label(one): one for one in layers if one.block is None}
    if alone:
        cells = {(label, ""): one for label, one in alone.items()}
        found.append(Grid("single layers", "", list(alone), [""], cells))
    return found


def _label(layer: Layer) -> str:
    if layer.part == OTHER:
        return layer.kind
    return f"{layer.part}, {layer.kind}" if layer.kind else layer.part


def plot(layers: list[Layer], model: str, path: Path) -> None:
    """Write the heat maps as a PNG: the encoder's at the left, decoder and single layers right."""
    plt = pyplot()
    found = grids(layers)
    right = [grid for grid in found if grid.title in ("decoder", "single layers")]
    left = [grid for grid in found if grid not in right]
    left.sort(key=lambda grid: "frontend" in grid.title)
    columns = [column for column in (left, right) if column]
    sizes = [(max(map(_width, column)), sum(map(_height, column))) for column in columns]
    height = max(size for _, size in sizes) + TITLE + MARGIN
    width = sum(size for size, _ in sizes) + COLOR_BAR[1] + MARGIN
    figure = plt.figure(figsize=(width, height))

    def add_axes(x: float, y: float, w: float, h: float) -> Axes:
        """A box by its upper left corner and size in inches, y from the top."""
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

    x = 0.0
    for column, (column_width, _) in zip(columns, sizes, strict=True):
        y = TITLE + MARGIN
        for grid in column:
            box = CELL_WIDTH * len(grid.columns), CELL_HEIGHT * len(grid.rows)
            _draw(add_axes(x + LABELS, y + TITLE, *box), grid)
            y += _height(grid)
        x += column_width
    total = _sum(layers, "all")
    title = (
        f"{printable(model)}: {total.weights - total.kept:,} of {total.weights:,} weights pruned "
    )
    title += f"({percent(total)}%)"
    figure.text(MARGIN / width, 1 - MARGIN / height, title, va="top", fontsize=12)
    scale = plt.cm.ScalarMappable(plt.Normalize(0, 100), COLORS)
    bar = add_axes(x + MARGIN, 2 * TITLE + MARGIN, COLOR_BAR[0], 8 * CELL_HEIGHT)
    figure.colorbar(scale, cax=bar).set_label("sparsity (%)")
    save_picture(figure, path)


def _width(grid: Grid) -> float:
    return LABELS + CELL_WIDTH * len(grid.columns) + MARGIN


def _height(grid: Grid) -> float:
    return TITLE + CELL_HEIGHT * len(grid.rows) + TICKS


def _draw(axes: Axes, grid: Grid) -> None:
    values = np.full((len(grid.rows), len(grid.columns)), np.nan)
    for (kind, block), layer in grid.cells.items():
        row, column = grid.rows.index(kind), grid.columns.index(block)
        values[row, column] = layer.sparsity
        color = "black" if layer.sparsity > BRIGHT else "white"
        axes.text(column, row, percent(layer), ha="center", va="center", fontsize=8, color=color)
    axes.imshow(values, COLORS, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(grid.columns)), grid.columns, fontsize=8)
    axes.set_yticks(range(len(grid.rows)), grid.rows, fontsize=9)
    axes.set_xlabel(grid.axis, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(grid.title, loc="left", fontsize=10, fontweight="bold")


def percent(count: Count) -> str:
    """Sparsity in % with one digit, 0 and 100 only where it is that exactly."""
    if count.kept in (0, count.weights):
        return "0" if count.kept else "100"
    rounded = f"{100 * count.sparsity:.1f}"
    return {"0.0": "<0.1", "100.0": ">99.9"}.get(rounded, rounded)
