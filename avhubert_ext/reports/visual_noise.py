"""Visual noise in the report of `evaluate`: a table, and paper B's Figure 2, WER by level."""

from __future__ import annotations

import statistics
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from avhubert_ext.data.visual_noise import LEVELS, TRAINING_TYPES, TYPES
from avhubert_ext.evaluation.evaluate import CLEAN
from avhubert_ext.evaluation.results import Result, parse_condition
from avhubert_ext.reports.page import Section, pyplot, save_picture, style_rates

if TYPE_CHECKING:
    from matplotlib.lines import Line2D

SEEN, UNSEEN = "visual_noise_seen.png", "visual_noise_unseen.png"
# A color per type, the same in every report; the four of a plot differ with red-green blindness.
COLORS = dict(zip(TYPES, cycle(("#0072b2", "#d55e00", "#009e73", "#cc79a7")), strict=False))
STYLES = (
    "-",
    "--",
    ":",
    "-.",
    (0, (6, 1, 1, 1, 1, 1)),
    (0, (1, 3)),
)  # of models, used again after the last


def visual_types(results: list[Result]) -> list[str]:
    """The types of visual noise of all models, in the order of the paper."""
    places = [parse_condition(c) for r in results for c in r.passes]
    found = {p.kind for p in places if p.level is not None}
    return [kind for kind in TYPES if kind in found]


def visual_section(results: list[Result], types: list[str], out: Path) -> Section:
    """The table and the plots, which are written to `out`."""
    seen = [kind for kind in types if kind in TRAINING_TYPES]
    unseen = [kind for kind in types if kind not in TRAINING_TYPES]
    pictures = []
    if seen:
        plot(results, seen, "types that training with visual noise draws from", out / SEEN)
        pictures.append(SEEN)
    if unseen:
        plot(results, unseen, "types that are unseen in training", out / UNSEEN)
        pictures.append(UNSEEN)
    title = f"Visual noise, mean over {level_ranges(results, types)}"
    return Section(title, *table(results, types), pictures)


def table(results: list[Result], types: list[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: cost, WER in % on clean video, and means over levels and over types."""
    header = ["model", "parameters", "MFLOPs/frame", CLEAN]
    header += [kind.replace("_", " ") for kind in types] + ["all types"]
    levels = {kind: all_levels(results, kind) for kind in types}
    rows = []
    for result in results:
        conditions = [[result.levels(kind).get(n) for n in levels[kind]] for kind in types]
        means = [result.mean_over(found) for found in conditions]
        overall = None if None in means else statistics.mean(means)
        rates = ["-" if mean is None else f"{mean:.2f}" for mean in [*means, overall]]
        rows.append([result.model, *result.cost(), result.cell(CLEAN), *rates])
    return header, rows


def all_levels(results: list[Result], kind: str) -> list[int]:
    """The levels of a type at which any model was evaluated; a mean needs all of them."""
    return sorted({level for result in results for level in result.levels(kind)})


def level_ranges(results: list[Result], types: list[str]) -> str:
    """For example `levels 1 to 10`, or type by type where they differ."""
    by_levels: dict[str, list[str]] = {}
    for kind in types:
        by_levels.setdefault(span(all_levels(results, kind)), []).append(kind.replace("_", " "))
    if len(by_levels) == 1:
        return f"levels {next(iter(by_levels))}"
    ranges = [f"{levels} of {', '.join(kinds)}" for levels, kinds in by_levels.items()]
    return f"levels {'; '.join(ranges)}"


def span(levels: list[int]) -> str:
    """For example `1 to 10` for consecutive levels, and `1, 3, 5` for others."""
    if len(levels) > 2 and levels == list(range(levels[0], levels[-1] + 1)):
        return f"{levels[0]} to {levels[-1]}"
    return ", ".join(map(str, levels))


def plot(results: list[Result], types: list[str], title: str, path: Path) -> None:
    """Plot WER against the level, 0 for clean: one color per type, one line style per model."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8.6, 4.8), layout="constrained")
    for number, result in enumerate(results):
        for kind in types:
            conditions = {0: CLEAN} | result.levels(kind)
            if len(conditions) == 1:
                continue
            spreads = [result.spread(c) for c in conditions.values()]
            axes.errorbar(
                list(conditions),
                [result.mean(c) for c in conditions.values()],
                spreads if any(spreads) else None,
                color=COLORS[kind],
                linestyle=STYLES[number % len(STYLES)],
                marker="o",
                markersize=3,
                capsize=2,
            )
    axes.set_xlim(-0.2, LEVELS + 0.2)
    axes.set_xticks(range(LEVELS + 1))
    axes.set_xlabel("level of visual noise (0: clean)")
    style_rates(axes, title)
    axes.legend(
        handles=_legend([result.model for result in results], types),
        bbox_to_anchor=(1.01, 1),
        loc="upper left",
        frameon=False,
        fontsize=9,
        handlelength=3.5,
    )
    save_picture(figure, path)


def _legend(models: list[str], types: list[str]) -> list[Line2D]:
    """The types in their colors, then the models in their line styles."""
    from matplotlib.lines import Line2D

    colors = [Line2D([], [], color=COLORS[kind], label=kind.replace("_", " ")) for kind in types]
    styles = [
        Line2D([], [], color="0.3", linestyle=STYLES[n % len(STYLES)], label=model)
        for n, model in enumerate(models)
    ]
    gap = Line2D([], [], linestyle="none", label="")
    return [*colors, gap, *styles]
