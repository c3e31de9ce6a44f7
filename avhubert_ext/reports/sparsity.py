"""Where the pruned weights of a model are: layer by layer, part by part, and as a heat map.

All numbers come from the pruning masks. They cover the prunable weights, which are those of linear
and convolution layers (see `compression/pruning.py`); all other parameters are dense and left out.
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
    from matplotlib.image import AxesImage

# The beginning of a weight's name -> its part. The parts are reported in this order.
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
# A layer that is repeated in a part: its place (the number of a block, or stage and unit of a
# frontend) and its name there.
REPEATED = re.compile(
    r"(?:(?:\w+\.)*(?:layer|stage)(?P<unit>\d+\.\d+)|(?P<block>\d+))\.(?P<kind>.+)"
)
# The kinds of weights by their names in a block, in the order of computation.
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
BRIGHT = 0.6  # above this sparsity colors are so bright that text on them must be black
CELL_WIDTH, CELL_HEIGHT, HEADING = 0.5, 0.28, 0.7  # of the plot, in inches


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

    Attributes:
        name: as in the file.
        shape: of the weight.
        part: of the model that it belongs to.
        kind: its role in the block or part; empty if it is the whole part.
        block: number of the block from 0, or stage and unit of a visual frontend; None if the
            weight is not in a repeated block.
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
    """Report the sparsity of a model.

    Args:
        model: a pruned model, or a file of masks.
        out: folder to write `sparsity.csv`, `sparsity.json` and `sparsity.png` to.

    Returns:
        The tables for a terminal.

    Raises:
        InputError: if the model is dense or cannot be read.
    """
    masks = read_masks(model)
    if not masks:
        raise InputError(
            f"{model}: no weight of it is permanently pruned; give a pruned model or a mask file, "
            "or prune it with `avhubert-ext model prune` first"
        )
    layers = layers_of(masks)
    if out is not None:
        write_text(out / "sparsity.csv", as_csv(layers))
        write_text(out / "sparsity.json", json.dumps(as_json(model, layers), indent=2) + "\n")
        plot(layers, model.name, out / "sparsity.png")
    return text_tables(layers)


def layers_of(masks: Masks) -> list[Layer]:
    """The layers of the masks, part by part, within a part in the order of the masks."""
    layers = [
        Layer(mask.numel(), int(mask.sum()), name, tuple(mask.shape), *place(name))
        for name, mask in masks.items()
    ]
    order = [*dict.fromkeys(PARTS.values()), OTHER]
    return sorted(layers, key=lambda layer: order.index(layer.part))


def place(name: str) -> tuple[str, str, str | None]:
    """The part, kind and block of a weight according to its name, see `Layer`."""
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
    """The sum of each part, followed by the sums of its kinds if it has several layers."""
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
    """Tables for a terminal: all layers, then the sums, then the total."""
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
    """One line per layer."""
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
    """A heat map for each part with blocks, then one for all other layers."""
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
    """Write the heat maps as a PNG, one below the other with cells of the same size."""
    plt = pyplot()
    found = grids(layers)
    heights = [len(grid.rows) for grid in found]
    columns = max(len(grid.columns) for grid in found)
    size = (4 + CELL_WIDTH * columns, CELL_HEIGHT * sum(heights) + HEADING * (len(found) + 1))
    figure, axes = plt.subplots(
        len(found), squeeze=False, figsize=size, height_ratios=heights, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    for place, grid in zip(axes.flat, found, strict=True):
        image = _draw(place, grid, columns)
    total = _sum(layers, "all")
    pruned = f"{total.weights - total.kept:,} of {total.weights:,} weights pruned"
    figure.suptitle(f"{printable(model)}: {pruned} ({percent(total)}%)", fontsize=12)
    figure.colorbar(image, ax=axes, label="sparsity (%)", aspect=40, fraction=0.03)
    save_picture(figure, path)


def _draw(axes: Axes, grid: Grid, columns: int) -> AxesImage:
    """Draw a heat map, filled up with empty columns at the right."""
    values = np.full((len(grid.rows), columns), np.nan)
    for (kind, block), layer in grid.cells.items():
        row, column = grid.rows.index(kind), grid.columns.index(block)
        values[row, column] = 100 * layer.sparsity
        color = "black" if layer.sparsity > BRIGHT else "white"
        axes.text(column, row, percent(layer), ha="center", va="center", fontsize=8, color=color)
    image = axes.imshow(values, COLORS, vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(grid.columns)), grid.columns, fontsize=8)
    axes.set_yticks(range(len(grid.rows)), grid.rows, fontsize=9)
    axes.set_xlabel(grid.axis, fontsize=8, loc="left")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(grid.title, loc="left", fontsize=10, fontweight="bold")
    return image


def percent(count: Count) -> str:
    """Sparsity in % with one digit; 0 and 100 only if it is exactly that."""
    if count.kept in (0, count.weights):
        return "0" if count.kept else "100"
    rounded = f"{100 * count.sparsity:.1f}"
    return {"0.0": "<0.1", "100.0": ">99.9"}.get(rounded, rounded)
