"""The report of `evaluate`: paper A's Table 1, curves of WER against SNR, and visual noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from avhubert_ext.data.files import write_text
from avhubert_ext.evaluation.evaluate import CLEAN
from avhubert_ext.evaluation.results import (
    Result,
    as_csv,
    as_json,
    parse_condition,
    read_results,
)
from avhubert_ext.models.presets import STUDENTS
from avhubert_ext.reports.page import (
    Section,
    as_html,
    as_text,
    markdown,
    pyplot,
    save_picture,
    style_rates,
)
from avhubert_ext.reports.visual_noise import span, visual_section, visual_types

TABLE_SNR = 0.0  # dB, of Table 1's columns


def report(out: Path) -> str:
    """Write `results.json`, `results.csv`, `table_1.md`, `table_1.html` and their plots.

    The plots are `wer_KIND.png` for acoustic noise, and `visual_noise_seen.png` and
    `visual_noise_unseen.png` for visual noise.

    Args:
        out: folder written by `evaluate`.

    Returns:
        The tables.

    Raises:
        InputError: if there are no results, or they are damaged.
    """
    results = read_results(out)
    kinds = acoustic_kinds(results)
    types = visual_types(results)
    write_text(out / "results.json", json.dumps([as_json(r) for r in results], indent=2) + "\n")
    write_text(out / "results.csv", as_csv(results))
    sections = []
    if kinds or not types:
        sections.append(acoustic_section(results, kinds, out))
    if types:
        sections.append(visual_section(results, types, out))
    notes = notes_on(results)
    write_text(out / "table_1.md", markdown(sections, notes))
    write_text(out / "table_1.html", as_html(sections, notes))
    return as_text(sections, notes)


def acoustic_kinds(results: list[Result]) -> list[str]:
    """The kinds of acoustic noise of all models."""
    places = [parse_condition(c) for r in results for c in r.passes]
    return list(dict.fromkeys(p.kind for p in places if p.snr_db is not None))


def acoustic_section(results: list[Result], kinds: list[str], out: Path) -> Section:
    """Table 1 and its plots, which are written to `out`."""
    for kind in kinds:
        plot(results, kind, out / f"wer_{kind}.png")
    title = "Acoustic noise" if kinds else "Clean speech"
    return Section(title, *table(results, kinds), [f"wer_{kind}.png" for kind in kinds])


def table(results: list[Result], kinds: list[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of Table 1: network, cost, WER in % at 0 dB of each kind of noise, clean.

    Then the means over all levels, which paper A states in its text.
    """
    header = ["model", "teacher", "init", "targets", "visual frontend", "type", "N", "D", "C"]
    header += ["parameters", "MFLOPs/frame"]
    header += [f"{kind} {TABLE_SNR:g} dB" for kind in kinds] + [CLEAN]
    header += [f"{kind}, all levels" for kind in kinds]
    levels = {kind: {snr for r in results for snr in r.curve(kind)} for kind in kinds}
    rows = []
    for result in results:
        e = result.encoder
        network = [*recipe(result.model), e.visual, e.block, str(e.layers), str(e.dim), str(e.ffn)]
        curves = {kind: result.curve(kind) for kind in kinds}
        conditions = [curves[kind].get(TABLE_SNR) for kind in kinds] + [CLEAN]
        rates = [result.cell(condition) for condition in conditions]
        overall = [result.mean_over(curves[k].get(snr) for snr in levels[k]) for k in kinds]
        means = ["-" if mean is None else f"{mean:.2f}" for mean in overall]
        rows.append([result.model, *network, *result.cost(), *rates, *means])
    return header, rows


def recipe(model: str) -> list[str]:
    """Teacher, initialization and targets in Table 1 of a student with one of its names."""
    student = STUDENTS.get(model)
    if student is None:
        return ["-", "-", "-"]
    teacher = "generic" if model.removeprefix("tiny-") == "1" else "task-specific"
    start = "teacher" if student.from_teacher else "scratch"
    return [teacher, start, ",".join(map(str, student.targets))]


def notes_on(results: list[Result]) -> list[str]:
    """What the rates were measured under, one line per model."""
    lines = [
        "WER in %: total word edits over total reference words, mean and standard deviation of the "
        "passes, each with other noise; no mean over levels (-) where some are missing; "
        "parameters and FLOPs are the encoder's."
    ]
    for result in results:
        s = result.settings
        noise = ", ".join(f"{kind} {found['list']}" for kind, found in s["noise"].items())
        words = result.passes[CLEAN][0].words
        lines.append(
            f"{result.model}: split {s['split']} of {s['data']} ({words} words), modalities "
            f"{s['modalities']}, {search_settings(s['beam'])}, noise {noise or 'none'}, noise seed "
            f"{s['noise_seed']}, passes: {pass_counts(result)}; trained with {s['trained_with']}; "
            f"{result.unreadable_note()}"
        )
    return lines


def search_settings(beam: dict[str, Any]) -> str:
    """The search settings of a model of either family."""
    if "ctc_weight" in beam:
        return f"beam {beam['beam']}, CTC weight {beam['ctc_weight']:g}"
    return f"beam {beam['beam']}, length penalty {beam['length_penalty']:g}"


def pass_counts(result: Result) -> str:
    """How often each condition was decoded, with types that share levels and passes together."""
    places = {condition: parse_condition(condition) for condition in result.passes}
    counts = [f"{c} {len(result.passes[c])}" for c, place in places.items() if place.level is None]
    alike: dict[tuple[int, str], list[str]] = {}
    for kind in visual_types([result]):
        by_number: dict[int, list[int]] = {}
        for level, condition in result.levels(kind).items():
            by_number.setdefault(len(result.passes[condition]), []).append(level)
        for number, levels in by_number.items():
            alike.setdefault((number, span(levels)), []).append(kind.replace("_", " "))
    for (number, levels), kinds in alike.items():
        counts.append(f"{number} of {', '.join(kinds)} at each of levels {levels}")
    return "; ".join(counts)


def plot(results: list[Result], kind: str, path: Path) -> None:
    """Plot WER against SNR in one kind of noise, one line per model (paper A, Figures 3 and 4)."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    levels = sorted({snr for r in results for snr in r.curve(kind)})
    places = {snr: place for place, snr in enumerate(levels)}
    colors = plt.get_cmap("viridis")
    for number, result in enumerate(results):
        curve = result.curve(kind)
        if not curve:
            continue
        conditions = [*curve.values(), CLEAN]
        teacher = result.model == "teacher"
        axes.errorbar(
            [*(places[snr] for snr in curve), len(levels)],
            [result.mean(c) for c in conditions],
            [result.spread(c) for c in conditions],
            label=result.model,
            marker="s" if teacher else "o",
            markersize=4,
            capsize=2,
            linestyle="--" if teacher else "-",
            color="black" if teacher else colors(0.92 * number / max(1, len(results) - 1)),
        )
    axes.set_xticks(range(len(levels) + 1), [*(f"{snr:g}" for snr in levels), CLEAN])
    axes.set_xlabel("SNR (dB)")
    axes.legend(frameon=False, fontsize=9, title="model")
    style_rates(axes, f"{kind}: mean and standard deviation of the passes")
    save_picture(figure, path)
