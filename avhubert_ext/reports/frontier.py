"""Accuracy against size: which evaluated models are worth their bytes.

A model's size is that of its file as stored. Only `.safetensors` hold a model and nothing else; a
checkpoint of fairseq or s3prl holds the optimizer's state too, of two to three times the model's
size. So a model that was evaluated from another file, or whose file is gone or has changed since,
is in the table without a size, with the reason, and has no part in the front. A folder without any
sized model is refused.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from avhubert_ext.checkpoints.description import DESCRIPTION_KEY, build
from avhubert_ext.checkpoints.model_file import read_masks
from avhubert_ext.compression.pruning import kept_parameters
from avhubert_ext.data.files import write_text
from avhubert_ext.errors import InputError, printable
from avhubert_ext.evaluation.evaluate import CLEAN, content_digest
from avhubert_ext.evaluation.results import Result, read_results
from avhubert_ext.reports.page import Section, as_text, markdown, pyplot, save_picture
from avhubert_ext.reports.pruning import check_comparable, measured_under, scale_rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

PICTURE = "frontier.png"
GAP = 5.0  # points between a point and its name
# Where a name may stand, the best first: (right, up) is its middle's direction from the point. To
# the lower left of the front there is nothing: farther off there it gets a line to its point.
FRONT_PLACES = ((-1, -1), (-1, 0), (0, -1), (-1, -3), (-1, -5), (1, 1), (1, 0), (0, 1))
PLACES = ((1, 0), (1, 1), (0, 1), (1, -1), (-1, 0), (-1, 1), (0, -1), (-1, -1))


@dataclass(frozen=True)
class Size:
    """Of a file in bytes; parameters: of the whole model, without pruned ones."""

    bytes: int
    parameters: int


@dataclass(frozen=True)
class Point:
    """An evaluated model. wer: in %. size: None where `why` tells that it has none."""

    name: str
    file: str
    wer: float
    size: Size | None
    why: str = ""
    on_front: bool = False


def frontier(evaluations: Sequence[Path], out: Path, condition: str = CLEAN) -> str:
    """Write `frontier.{md,csv,png}`; returns the table.

    evaluations: folders that `evaluate` wrote. condition: as it names them, `block_level3`. Raises
    InputError for a folder without results, models of several test sets, a condition that no model
    was decoded under, and if no model has a size.
    """
    named = read_named(evaluations)
    check_comparable(named)
    measured = {name: r for name, r in named.items() if condition in r.passes}
    if not measured:
        known = dict.fromkeys(c for result in named.values() for c in result.passes)
        raise InputError(f"condition '{condition}': expected one of {', '.join(known)}")
    points = with_front([make_point(name, r, condition) for name, r in measured.items()])
    if not any(point.size for point in points):
        told = "; ".join(f"{point.name}: {point.why}" for point in points)
        raise InputError(f"no model with a size: {told}")
    notes = [
        "MB: 10^6 bytes of the model's file as stored; parameters: of the whole model, without "
        "pruned ones; front: no other model is smaller and as good, or better and as small. In "
        "the picture models behind the front have a name where there is room.",
        *(f"{point.name} has no size: {point.why}." for point in points if point.size is None),
        *(f"{name} is left out: not decoded under {condition}."
          for name in named if name not in measured),
        *measured_under(measured),
    ]  # fmt: skip
    plot(points, condition, out / PICTURE)
    section = Section(f"Accuracy against size, {condition}", *table(points), [PICTURE])
    write_text(out / "frontier.md", markdown([section], notes))
    write_text(out / "frontier.csv", as_csv(points, condition))
    return as_text([section], notes)


def read_named(evaluations: Sequence[Path]) -> dict[str, Result]:
    """The models of all folders; a name that several folders have is told with its folder."""
    folders = list(dict.fromkeys(folder.absolute() for folder in evaluations))
    found = [(folder, result) for folder in folders for result in read_results(folder)]
    counts = Counter(result.model for _, result in found)
    above = os.path.commonpath(folders)
    return {
        printable(r.model if counts[r.model] == 1 else os.path.relpath(folder / r.model, above)): r
        for folder, r in found
    }


def make_point(name: str, result: Result, condition: str) -> Point:
    """With the size of its file, or the reason why that is not known."""
    file = Path(result.settings["file"])
    why = ""
    if file.suffix != ".safetensors":
        why = (
            f"{file} holds more than the model, such as optimizer state; run `avhubert-ext model "
            "convert` on it and evaluate the .safetensors file"
        )
    elif not file.is_file():
        why = f"{file} is gone; put it back, or evaluate it where it is now"
    elif content_digest(file) != result.settings["sha256"]:
        why = f"{file} is another one since; evaluate it under another name"
    size = None if why else measure(file)
    return Point(name, str(file), result.mean(condition), size, why)


def measure(file: Path) -> Size:
    """Of a `.safetensors` that was evaluated; the weights themselves are not read."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened, torch.device("meta"):
        model = build(json.loads(opened.metadata()[DESCRIPTION_KEY]))
    return Size(file.stat().st_size, kept_parameters(model, read_masks(file)))


def with_front(points: Sequence[Point]) -> list[Point]:
    """The points from the smallest to the largest, marked where they are on the front, then those
    without size."""
    sized = sorted(
        (point for point in points if point.size), key=lambda p: (p.size.bytes, p.wer, p.name)
    )
    on_front = pareto_front([(point.size.bytes, point.wer) for point in sized])
    marked = [replace(point, on_front=on) for point, on in zip(sized, on_front, strict=True)]
    return marked + [point for point in points if point.size is None]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of (size, rate), less is better: which have no other that is at most as large and at most as
    bad, and less in one of them. Equal points are on the front together."""
    front = [False] * len(points)
    best = (math.inf, math.inf)  # of the points so far: (rate, size)
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        size, rate = points[index]
        front[index] = rate < best[0] or (rate, size) == best
        if rate < best[0]:
            best = (rate, size)
    return front


def table(points: Sequence[Point]) -> tuple[list[str], list[list[str]]]:
    """Header and a row a model."""
    header = ["model", "MB", "bytes", "parameters", "WER (%)", "front"]
    rows = []
    for p in points:
        size = ["-"] * 3
        if p.size:
            size = [f"{p.size.bytes / 1e6:.2f}", f"{p.size.bytes:,}", f"{p.size.parameters:,}"]
        rows.append([p.name, *size, f"{p.wer:.2f}", "yes" if p.on_front else ""])
    return header, rows


def as_csv(points: Sequence[Point], condition: str) -> str:
    """A line a model; no bytes and parameters where the size is not known."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["model", "bytes", "parameters", "condition", "wer", "on_front", "file"])
    for p in points:
        size = [p.size.bytes, p.size.parameters] if p.size else ["", ""]
        writer.writerow([p.name, *size, condition, f"{p.wer:.3f}", int(p.on_front), p.file])
    return buffer.getvalue()


def plot(points: Sequence[Point], condition: str, path: Path) -> None:
    """WER over size; the front as steps: the best rate that so many bytes can have."""
    plt = pyplot()
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    sized = [(p, (p.size.bytes / 1e6, p.wer)) for p in points if p.size]
    front = [place for p, place in sized if p.on_front]
    others = [place for p, place in sized if not p.on_front]
    axes.step(*zip(*front, strict=True), where="post", color="#0072b2", linewidth=1.2)
    if others:
        axes.plot(*zip(*others, strict=True), "o", color="0.6", markersize=4)
    axes.plot(*zip(*front, strict=True), "o", color="#0072b2", markersize=6)
    axes.set_xscale("log")
    smallest, largest = sized[0][1][0], sized[-1][1][0]
    axes.set_xlim(smallest / 1.3, largest * 1.3)
    axes.xaxis.set_major_locator(LogLocator(10, (1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("model file (MB)")
    axes.set_title(f"Accuracy against size, {condition}: the front, and behind it", loc="left",
                   fontsize=11)  # fmt: skip
    scale_rates(axes, [place[1] for _, place in sized])
    figure.draw_without_rendering()
    label(axes, [(p.name, place, p.on_front) for p, place in sorted(sized, key=_front_first)])
    save_picture(figure, path)


def _front_first(sized: tuple[Point, tuple[float, float]]) -> bool:
    return not sized[0].on_front


def label(axes: Axes, named: Sequence[tuple[str, tuple[float, float], bool]]) -> None:
    """Write names beside their points (name, place, whether it is on the front), the first first.

    Where no place is free, a name of the front goes there nevertheless, another is left out.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    renderer = axes.figure.canvas.get_renderer()
    outline = [withStroke(linewidth=2, foreground="white")]  # lines behind a name stay away from it
    pixels = axes.figure.dpi / 72  # a point
    places = axes.transData.transform([place for _, place, _ in named])
    dot = 4 * pixels
    taken = [Bbox.from_bounds(x - dot, y - dot, 2 * dot, 2 * dot) for x, y in places]
    # The steps between the points of the front, too.
    corners = sorted((x, y) for (x, y), (*_, front) in zip(places, named, strict=True) if front)
    for (x, y), (right, low) in pairwise(corners):
        taken += [Bbox.from_extents(x, y - 1, right, y + 1)]
        taken += [Bbox.from_extents(right - 1, low, right + 1, y)]
    for (name, place, front), (x, y) in zip(named, places, strict=True):
        text = axes.annotate(
            name, place, xytext=(0, 0), textcoords="offset points",
            fontsize=8 if front else 7, color="black" if front else "0.4", path_effects=outline,
        )  # fmt: skip
        size = text.get_window_extent(renderer)
        for right, up in FRONT_PLACES if front else PLACES:
            left = right * GAP * pixels + (right - 1) / 2 * size.width
            low = up * GAP * pixels + (up - 1) / 2 * size.height
            box = Bbox.from_bounds(x + left, y + low, size.width, size.height)
            if _inside(axes.bbox, box) and not any(box.overlaps(other) for other in taken):
                break
        else:
            if not front:
                text.remove()
                continue
        text.set_position((left / pixels, low / pixels))
        if up < -1:
            axes.annotate(
                "", place, xytext=(-GAP, (low + size.height) / pixels), textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.6, "shrinkA": 0},
            )  # fmt: skip
        taken.append(box)


def _inside(outer: Bbox, box: Bbox) -> bool:
    return outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1
