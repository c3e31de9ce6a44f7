"""Accuracy against size: which evaluated models are worth their bytes.

The size of a model is that of its file as stored. Only a `.safetensors` file holds nothing but a
model; a checkpoint of fairseq or s3prl also holds the state of the optimizer, which is two to three
times as large. A model that was evaluated from such a checkpoint, or whose file is missing or has
changed since, is listed without a size, with the reason, and is not part of the front.
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
from pathlib import Path

import torch

from avhubert_ext.checkpoints.description import DESCRIPTION_KEY, build
from avhubert_ext.checkpoints.model_file import read_masks
from avhubert_ext.compression.pruning import kept_parameters
from avhubert_ext.data.files import write_text
from avhubert_ext.errors import InputError, printable
from avhubert_ext.evaluation.evaluate import CLEAN, content_digest
from avhubert_ext.evaluation.results import Result, read_results
from avhubert_ext.reports.page import Section, as_text, markdown, pyplot, save_picture, style
from avhubert_ext.reports.pruning import check_comparable, measured_under

PICTURE = "frontier.png"
FRONT, BEHIND = "#0072b2", "0.5"  # colors


@dataclass(frozen=True)
class Size:
    """The size of a model.

    Attributes:
        bytes: size of its file.
        parameters: number of parameters of the whole model, without pruned ones.
    """

    bytes: int
    parameters: int


@dataclass(frozen=True)
class Point:
    """An evaluated model.

    Attributes:
        name: as in the tables.
        file: that it was evaluated from.
        wer: in percent.
        size: None if it is not known.
        why: the reason why the size is not known.
        on_front: whether no other model is smaller and as good, or better and as small.
    """

    name: str
    file: str
    wer: float
    size: Size | None
    why: str = ""
    on_front: bool = False


def frontier(evaluations: Sequence[Path], out: Path, condition: str = CLEAN) -> str:
    """Write `frontier.md`, `frontier.csv` and `frontier.png`.

    Args:
        evaluations: folders written by `evaluate`.
        out: folder to write to.
        condition: for example `babble_0dB` or `block_level3`.

    Returns:
        The table.

    Raises:
        InputError: if a folder has no results, the models were evaluated on different test sets, no
            model was decoded under the condition, or no model has a size.
    """
    named = read_named(evaluations)
    check_comparable(named)
    measured = {name: r for name, r in named.items() if condition in r.passes}
    if not measured:
        known = dict.fromkeys(c for result in named.values() for c in result.passes)
        raise InputError(f"condition '{condition}': expected one of {', '.join(known)}")
    points = with_front([make_point(name, r, condition) for name, r in measured.items()])
    if not any(point.size for point in points):
        reasons = "; ".join(f"{point.name}: {point.why}" for point in points)
        raise InputError(f"no model with a size: {reasons}")
    notes = [
        "MB: 10^6 bytes of the model's file as stored; parameters: of the whole model, without "
        "pruned ones; front: no other model is smaller and as good, or better and as small.",
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
    """The models of all folders by name; a name that several folders have gets its folder too."""
    folders = list(dict.fromkeys(folder.absolute() for folder in evaluations))
    found = [(folder, result) for folder in folders for result in read_results(folder)]
    counts = Counter(result.model for _, result in found)
    above = os.path.commonpath(folders)
    return {
        printable(r.model if counts[r.model] == 1 else os.path.relpath(folder / r.model, above)): r
        for folder, r in found
    }


def make_point(name: str, result: Result, condition: str) -> Point:
    """A model with the size of its file, or the reason why that is not known."""
    file = Path(result.settings["file"])
    why = ""
    if file.suffix != ".safetensors":
        why = (
            f"{file} also holds an optimizer's state; convert it to .safetensors with "
            "`avhubert-ext model convert` and evaluate that"
        )
    elif not file.is_file():
        why = f"{file} is missing; put it back, or evaluate it where it is now"
    elif content_digest(file) != result.settings["sha256"]:
        why = f"{file} has changed since; evaluate it under another name"
    size = None if why else measure(file)
    return Point(name, str(file), result.mean(condition), size, why)


def measure(file: Path) -> Size:
    """Measure a `.safetensors` file without reading its weights."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened, torch.device("meta"):
        model = build(json.loads(opened.metadata()[DESCRIPTION_KEY]))
    return Size(file.stat().st_size, kept_parameters(model, read_masks(file)))


def with_front(points: Sequence[Point]) -> list[Point]:
    """The points by size, with the front marked, followed by those without size."""
    sized = sorted(
        (point for point in points if point.size), key=lambda p: (p.size.bytes, p.wer, p.name)
    )
    on_front = pareto_front([(point.size.bytes, point.wer) for point in sized])
    marked = [replace(point, on_front=on) for point, on in zip(sized, on_front, strict=True)]
    return marked + [point for point in points if point.size is None]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other point beats in size or rate while being as good in the other.

    Args:
        points: (size, rate) of each; less is better.

    Returns:
        Whether each point is on the front. Equal points are on it together.
    """
    front = [False] * len(points)
    best = (math.inf, math.inf)  # of the points so far: (rate, size)
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        size, rate = points[index]
        front[index] = rate < best[0] or (rate, size) == best
        if rate < best[0]:
            best = (rate, size)
    return front


def table(points: Sequence[Point]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, one per model."""
    header = ["model", "MB", "bytes", "parameters", "WER (%)", "front"]
    rows = []
    for p in points:
        size = ["-"] * 3
        if p.size:
            size = [f"{p.size.bytes / 1e6:.2f}", f"{p.size.bytes:,}", f"{p.size.parameters:,}"]
        rows.append([p.name, *size, f"{p.wer:.2f}", "yes" if p.on_front else ""])
    return header, rows


def as_csv(points: Sequence[Point], condition: str) -> str:
    """One line per model, without bytes and parameters where the size is not known."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["model", "bytes", "parameters", "condition", "wer", "on_front", "file"])
    for p in points:
        size = [p.size.bytes, p.size.parameters] if p.size else ["", ""]
        writer.writerow([p.name, *size, condition, f"{p.wer:.3f}", int(p.on_front), p.file])
    return buffer.getvalue()


def plot(points: Sequence[Point], condition: str, path: Path) -> None:
    """Plot WER over size; the front as steps: the best rate that a file of that size can have.

    Each model is marked by its number in the legend, from the smallest to the largest.
    """
    plt = pyplot()
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    sized = [(point, point.size.bytes / 1e6) for point in points if point.size]
    front = [(size, point.wer) for point, size in sized if point.on_front]
    axes.step(*zip(*front, strict=True), where="post", color=FRONT, linewidth=1, alpha=0.5)
    for number, (point, size) in enumerate(sized, start=1):
        axes.plot(
            size,
            point.wer,
            marker=f"${number}$",
            markersize=5 + 3 * len(str(number)),
            color=FRONT if point.on_front else BEHIND,
            linestyle="none",
            label=point.name,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlabel("model file (MB)")
    axes.set_ylabel("WER (%)")
    style(axes, f"Accuracy against size, {condition}: the front in blue, and behind it")
    axes.legend(bbox_to_anchor=(1.01, 1), loc="upper left", frameon=False, fontsize=8)
    save_picture(figure, path)
