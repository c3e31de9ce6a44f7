"""The report of a pruning sweep: SparseVSR's Table 1 and Figure 1 from results of `evaluate`.

The name of an evaluated model states how it was pruned, with S the sparsity in percent, 1 to 99:

    dense               the model that was pruned
    METHOD-S            a column of Table 1: a key of METHODS, as in `lrr-iterative-50`
    rewind-T-S          one shot, the weights rewound to the kept checkpoint T (Figure 1)

In Figure 1 one-shot LTH is T = 0 and one-shot LRR the last T. Models that are not evaluated yet are
missing in the tables and plots, so the report can be written while a sweep is running.
"""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from avhubert_ext.data.files import write_text
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.evaluate import CLEAN
from avhubert_ext.evaluation.results import Result, read_results
from avhubert_ext.reports.noise import search_settings
from avhubert_ext.reports.page import Section, as_text, markdown, pyplot, save_picture, style
from avhubert_ext.reports.visual_noise import all_levels, level_ranges, visual_types

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DENSE, REWIND = "dense", "rewind"
# The columns of Table 1, in its order and words.
METHODS = {
    "naive": "Naïve pruning",
    "finetune": "One-shot: Finetune",
    "parp": "One-shot: PARP",
    "lth": "One-shot: LTH",
    "lrr": "One-shot: LRR",
    "lth-iterative": "Iterative: LTH",
    "lrr-iterative": "Iterative: LRR",
}
SPARSITIES = tuple(range(10, 100, 10))
# Table 1 as printed, WER in % on LRS3: sparsity -> one value for each of METHODS.
PAPER = {
    0: "39.30 39.30 39.30 39.30 39.30 39.30 39.30",
    10: "39.20 40.15 39.36 39.11 37.40 40.78 37.88",
    20: "39.80 40.23 39.25 39.80 37.39 40.78 37.30",
    30: "40.80 40.65 39.63 40.00 38.38 40.78 38.38",
    40: "44.50 41.11 40.30 40.91 38.55 40.78 37.80",
    50: "62.10 43.04 45.30 42.79 39.39 40.78 38.26",
    60: "122.3 47.67 61.56 43.89 40.23 42.34 40.13",
    70: "106.1 59.89 92.05 45.50 42.26 42.34 41.29",
    80: "110.8 95.99 376.00 50.21 44.81 48.40 43.53",
    90: "100.0 100.0 141.00 68.45 64.40 57.69 53.12",
}
MARGIN = 20  # points of WER that a plot reaches above the dense model
METHODS_PICTURE, REWINDING_PICTURE = "pruning_methods.png", "pruning_rewinding.png"
# LTH and LRR have the same color in one shot (dashed) and iteratively. The colors also differ for
# readers with red-green blindness.
STYLES = {
    "naive": ("0.55", ":", "x"),
    "finetune": ("#cc79a7", "--", "v"),
    "parp": ("#56b4e9", "--", "^"),
    "lth": ("#d55e00", "--", "o"),
    "lrr": ("#0072b2", "--", "o"),
    "lth-iterative": ("#d55e00", "-", "s"),
    "lrr-iterative": ("#0072b2", "-", "s"),
}


@dataclass(frozen=True)
class Pruned:
    """How a model was pruned.

    Attributes:
        method: `dense`, one of METHODS, or `rewind`.
        sparsity: in percent of the prunable weights.
        rewind: checkpoint T (an epoch or an update) of a `rewind` model.
    """

    method: str
    sparsity: int = 0
    rewind: int | None = None


def parse_name(name: str) -> Pruned | None:
    """Parse `dense`, `lrr-iterative-50` or `rewind-20-50`; None for any other name."""
    if name == DENSE:
        return Pruned(DENSE)
    if match := re.fullmatch(rf"{REWIND}-(0|[1-9]\d*)-([1-9]\d?)", name):
        return Pruned(REWIND, int(match[2]), int(match[1]))
    if match := re.fullmatch(rf"({'|'.join(METHODS)})-([1-9]\d?)", name):
        return Pruned(match[1], int(match[2]))
    return None


class Sweep:
    """The models of a sweep that are evaluated so far."""

    def __init__(self, results: Iterable[Result], last: int | None = None) -> None:
        """Take the models of a sweep out of results.

        Args:
            results: all evaluated models.
            last: T of one-shot LRR; None leaves it out of Figure 1.

        Raises:
            InputError: if no name states how a model was pruned, or a T is larger than `last`.
        """
        results = list(results)
        parsed = {result.model: parse_name(result.model) for result in results}
        self.unknown = [name for name, found in parsed.items() if found is None]
        self.models = {found: r for r in results if (found := parsed[r.model]) is not None}
        if not self.models:
            raise InputError(
                f"no model of a pruning sweep among {', '.join(parsed)}: expected names like "
                f"dense, {', '.join(f'{method}-50' for method in METHODS)} or {REWIND}-20-50"
            )
        rewinds = [model.rewind for model in self.models if model.rewind is not None]
        if last is not None and last < max(rewinds, default=0):
            raise InputError(
                f"--last {last}: expected at least {max(rewinds)}, since a model was rewound to it"
            )
        self.last = last

    def in_order(self) -> list[tuple[Pruned, Result]]:
        """The dense model, the methods in the order of Table 1, then the rewound models."""
        order = [DENSE, *METHODS, REWIND]
        return sorted(
            self.models.items(),
            key=lambda item: (order.index(item[0].method), self.rewound_to(item[0]) or 0,
                              item[0].sparsity),
        )  # fmt: skip

    def named(self) -> dict[str, Result]:
        """The results by model name, in the same order."""
        return {result.model: result for _, result in self.in_order()}

    def rewound_to(self, model: Pruned) -> int | None:
        """T in Figure 1; None for a model that is not in it."""
        return {"lth": 0, "lrr": self.last}.get(model.method, model.rewind)

    def rate(self, model: Pruned) -> float | None:
        """WER in % on clean speech; None if the model is not evaluated."""
        return self.models[model].mean(CLEAN) if model in self.models else None

    def curve(self, method: str) -> dict[int, float]:
        """WER in % of one of METHODS by sparsity, in ascending order."""
        found = {m.sparsity: r.mean(CLEAN) for m, r in self.models.items() if m.method == method}
        return dict(sorted(found.items()))

    def rewinding(self) -> dict[int, dict[int, float]]:
        """Figure 1: WER in % by sparsity and T, both in ascending order.

        Sparsities are those of `rewind` models. Where one-shot LTH or LRR has the same T as a
        `rewind` model, the latter counts.
        """
        curves: dict[int, dict[int, float]] = {}
        for sparsity in sorted({m.sparsity for m in self.models if m.method == REWIND}):
            found = {
                t: r.mean(CLEAN)
                for m, r in sorted(self.models.items(), key=lambda item: item[0].method == REWIND)
                if m.sparsity == sparsity and (t := self.rewound_to(m)) is not None
            }
            curves[sparsity] = dict(sorted(found.items()))
        return curves


def report(evaluation: Path, out: Path, last: int | None = None) -> str:
    """Write `pruning.md`, `pruning.csv`, `pruning_methods.png` and `pruning_rewinding.png`.

    Args:
        evaluation: folder written by `evaluate`.
        out: folder to write to.
        last: T of one-shot LRR in Figure 1.

    Returns:
        The tables.

    Raises:
        InputError: if the folder has no results or no models of a sweep, or the models were
            evaluated on different test sets.
    """
    results = read_results(evaluation)
    sweep = Sweep(results, last)
    check_comparable(sweep.named())
    sections = [methods_section(sweep, out), paper_section()]
    if sweep.rewinding():
        sections.append(rewinding_section(sweep, out))
    seeing = [(m, r) for m, r in sweep.in_order() if visual_types([r])]
    if seeing:
        sections.append(visual_section(seeing))
    notes = notes_on(sweep)
    write_text(out / "pruning.md", markdown(sections, notes))
    write_text(out / "pruning.csv", as_csv(sweep))
    return as_text(sections, notes)


def check_comparable(named: Mapping[str, Result]) -> None:
    """Raise InputError if the models were not decoded on the same number of reference words."""
    words = {result.passes[CLEAN][0].words: name for name, result in named.items()}
    if len(words) > 1:
        counts = ", ".join(f"{model} {count}" for count, model in words.items())
        raise InputError(
            f"models of several test sets, in reference words: {counts}; name results of one test "
            "set"
        )


def methods_section(sweep: Sweep, out: Path) -> Section:
    """Table 1 and its plot, which is written to `out`."""
    sparsities = sorted({*SPARSITIES, *(s for method in METHODS for s in sweep.curve(method))})
    rates = [[sweep.rate(Pruned(DENSE))] * len(METHODS)]
    rates += [[sweep.rate(Pruned(method, s)) for method in METHODS] for s in sparsities]
    rows = [
        [sparsity_name(sparsity), *mark_best([rate_cell(rate) for rate in row])]
        for sparsity, row in zip([0, *sparsities], rates, strict=True)
    ]
    pictures = []
    if any(rate is not None for row in rates for rate in row):
        plot_methods(sweep, out / METHODS_PICTURE)
        pictures.append(METHODS_PICTURE)
    title = "Pruning techniques, WER (%): SparseVSR's Table 1 on this corpus"
    return Section(title, ["Sp", *METHODS.values()], rows, pictures)


def paper_section() -> Section:
    """Table 1 as the paper has it."""
    rows = [[sparsity_name(s), *mark_best(rates.split())] for s, rates in PAPER.items()]
    title = "For comparison, the paper's own numbers: LRS3 and BASE-S, another corpus and network"
    return Section(title, ["Sp", *METHODS.values()], rows, [])


def sparsity_name(sparsity: int) -> str:
    return f"{sparsity}%" if sparsity else "0 (dense)"


def rate_cell(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.2f}"


def mark_best(cells: list[str]) -> list[str]:
    """Set the lowest rates of a row in bold, unless all are the same."""
    rates = {float(cell) for cell in cells if cell != "-"}
    if len(rates) < 2:
        return cells
    best = min(rates)
    return [f"**{cell}**" if cell != "-" and float(cell) == best else cell for cell in cells]


def rewinding_section(sweep: Sweep, out: Path) -> Section:
    """Figure 1 as a table and its plot, which is written to `out`."""
    curves = sweep.rewinding()
    header = ["T", *(sparsity_name(sparsity) for sparsity in curves)]
    rows = [
        [str(t), *(rate_cell(curve.get(t)) for curve in curves.values())]
        for t in sorted({t for curve in curves.values() for t in curve})
    ]
    plot_rewinding(sweep, out / REWINDING_PICTURE)
    title = "One-shot pruning with the weights rewound to checkpoint T, WER (%): Figure 1"
    return Section(title, header, rows, [REWINDING_PICTURE])


def visual_section(models: list[tuple[Pruned, Result]]) -> Section:
    """WER in % on clean video and under visual noise, and the differences to the dense model.

    Under noise it is the mean of the types' means over their levels, as `evaluate` reports it.
    """
    results = [result for _, result in models]
    types = visual_types(results)
    rates = {r.model: (r.mean(CLEAN), visual_mean(r, results, types)) for r in results}
    rows = []
    for model, result in models:
        row = [result.model, sparsity_name(model.sparsity)]
        for rate, dense in zip(rates[result.model], rates.get(DENSE, (None, None)), strict=True):
            known = rate is not None and dense is not None
            row += [rate_cell(rate), f"{rate - dense:+.2f}" if known else "-"]
        rows.append(row)
    title = f"Visual noise, mean over {len(types)} types, {level_ranges(results, types)}, WER (%)"
    header = ["model", "Sp", CLEAN, "minus dense", "visual noise", "minus dense"]
    return Section(title, header, rows, [])


def visual_mean(result: Result, results: list[Result], types: list[str]) -> float | None:
    """The mean over types of the means over levels; None if a level of any result is missing."""
    means = [
        result.mean_over(result.levels(kind).get(n) for n in all_levels(results, kind))
        for kind in types
    ]
    return None if None in means else statistics.mean(means)


def notes_on(sweep: Sweep) -> list[str]:
    """How to read the tables and plots, and what the rates were measured under."""
    notes = [
        "WER in %: total word edits over total reference words, above 100 where a model inserts "
        "words; bold: the best of a row; -: not evaluated (yet). Sparsity: of the prunable "
        "weights, as stated by the names of the models.",
        f"Plots: the axis does not start at 0 and ends {MARGIN} points above the dense model (or "
        "the best one, if no dense model was evaluated); the tables have the higher rates.",
        "The paper finetunes (Finetune, PARP) for 10 epochs with a fixed learning rate; its "
        "numbers show which method is better, not which rates to expect here.",
        *measured_under(sweep.named()),
    ]
    if sweep.last is None and any(m.method == REWIND for m in sweep.models):
        notes.append("One-shot LRR is missing in Figure 1; name its T with --last.")
    if sweep.unknown:
        notes.append(f"Left out because of their names: {', '.join(sweep.unknown)}.")
    return notes


def measured_under(named: Mapping[str, Result]) -> list[str]:
    """Data and search settings, one line for all models that share them."""
    alike: dict[str, list[str]] = {}
    for name, r in named.items():
        s, words = r.settings, r.passes[CLEAN][0].words
        shown = f"split {s['split']} of {s['data']} ({words} words), modalities {s['modalities']}"
        shown += f", {search_settings(s['beam'])}"
        if r.unreadable():
            shown += f", {r.unreadable_note()}"
        alike.setdefault(shown, []).append(name)
    if len(alike) == 1:
        return [f"All models: {next(iter(alike))}."]
    return [f"{', '.join(models)}: {shown}." for shown, models in alike.items()]


COLUMNS = ("method", "rewind", "sparsity", "condition", "wer", "encoder_parameters", "file")


def as_csv(sweep: Sweep) -> str:
    """One line per model and condition; sparsity and WER (mean of the passes) in percent.

    Column `rewind` is T of Figure 1; `encoder_parameters` is without pruned ones.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for model, result in sweep.in_order():
        kept, file = result.encoder.parameters, result.settings["file"]
        how = [model.method, sweep.rewound_to(model), model.sparsity]
        for condition in result.passes:
            writer.writerow([*how, condition, f"{result.mean(condition):.3f}", kept, file])
    return buffer.getvalue()


def plot_methods(sweep: Sweep, path: Path) -> None:
    """Plot WER over sparsity, one line per method."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8.6, 5.2), layout="constrained")
    curves = {method: curve for method in METHODS if (curve := sweep.curve(method))}
    for method, curve in curves.items():
        color, line, marker = STYLES[method]
        axes.plot(
            list(curve), list(curve.values()), color=color, linestyle=line, marker=marker,
            markersize=5, label=METHODS[method],
        )  # fmt: skip
    rates = [rate for curve in curves.values() for rate in curve.values()]
    axes.set_xticks(SPARSITIES)
    axes.set_xlabel("sparsity (% of the prunable weights)")
    _finish(axes, sweep, rates, "Pruning techniques")
    save_picture(figure, path)


def plot_rewinding(sweep: Sweep, path: Path) -> None:
    """Plot WER over T, one line per sparsity."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8.6, 4.8), layout="constrained")
    curves = sweep.rewinding()
    colors = plt.get_cmap("viridis")
    for number, (sparsity, curve) in enumerate(curves.items()):
        axes.plot(
            list(curve), list(curve.values()), marker="o", markersize=5,
            color=colors(0.85 * number / max(1, len(curves) - 1)), label=sparsity_name(sparsity),
        )  # fmt: skip
    axes.set_xlabel("T: checkpoint that the weights are rewound to")
    rates = [rate for curve in curves.values() for rate in curve.values()]
    _finish(axes, sweep, rates, "Rewinding, one-shot pruning")
    save_picture(figure, path)


def _finish(axes: Axes, sweep: Sweep, rates: Sequence[float], title: str) -> None:
    """Draw the dense model's line, limit the axis of rates, and put the legend next to the plot."""
    dense = sweep.rate(Pruned(DENSE))
    if dense is not None:
        axes.axhline(dense, color="black", linestyle="--", linewidth=1, label="dense")
        rates = [*rates, dense]
    top = (min(rates) if dense is None else dense) + MARGIN
    axes.set_ylim(0.98 * min(rates), min(axes.get_ylim()[1], top))
    axes.set_ylabel("WER (%)")
    style(axes, title)
    axes.legend(bbox_to_anchor=(1.01, 1), loc="upper left", frameon=False, fontsize=9)
