"""Results of `evaluate`: JSON, CSV, plots of WER against SNR, a page like paper A's Table 1."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avhubert_ext.data.files import whole_file, write_text
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.evaluate import CLEAN, Encoder, read_record
from avhubert_ext.evaluation.hypotheses import read_decoded
from avhubert_ext.models.presets import STUDENTS

CONDITION = re.compile(r"(.+)_(-?[\d.]+)dB")
TABLE_SNR = 0.0  # dB, of Table 1's columns
STYLE = """body { font: 16px/1.5 sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; } th, td { padding: .3em .7em; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 2px solid #444; }
td { border-bottom: 1px solid #ddd; } img { max-width: 100%; }"""


@dataclass(frozen=True)
class Pass:
    """One decoding of the split: word edits, reference words, unreadable utterances."""

    edits: int
    words: int
    unreadable: int

    @property
    def wer(self) -> float:
        """In percent."""
        return 100 * self.edits / self.words


@dataclass(frozen=True)
class Result:
    """A model's passes by condition, and `model.json`: what they were measured under."""

    model: str
    encoder: Encoder
    settings: dict[str, Any]
    passes: dict[str, list[Pass]]

    def mean(self, condition: str) -> float:
        return statistics.mean(p.wer for p in self.passes[condition])

    def spread(self, condition: str) -> float:
        """Standard deviation between the passes (n - 1); 0 for a single one."""
        rates = [p.wer for p in self.passes[condition]]
        return statistics.stdev(rates) if len(rates) > 1 else 0.0

    def curve(self, kind: str) -> dict[float, str]:
        """SNR in dB -> condition, of one kind of noise, rising."""
        found = {snr: c for c in self.passes for k, snr in [parse_condition(c)] if k == kind}
        return dict(sorted(found.items()))

    def mean_over(self, kind: str, levels: set[float]) -> float | None:
        """The mean of the means at these levels of one kind of noise, None if one is missing."""
        curve = self.curve(kind)
        if not levels or not levels <= curve.keys():
            return None
        return statistics.mean(self.mean(curve[level]) for level in levels)


def parse_condition(condition: str) -> tuple[str, float | None]:
    """`babble_-5dB` -> (babble, -5.0); `clean` -> (clean, None)."""
    match = CONDITION.fullmatch(condition)
    return (match[1], float(match[2])) if match else (condition, None)


def read_results(out: Path) -> list[Result]:
    """All models in a folder of `evaluate`, in the order of their names, `teacher` first.

    One that is still without its pass on clean speech is left out.
    """
    folders = sorted(path.parent.parent for path in out.glob(f"*/{CLEAN}/pass-0.jsonl"))
    if not folders:
        raise InputError(f"{out}: no results in it; run `avhubert-ext evaluate` first")
    folders.sort(key=lambda folder: folder.name != "teacher")
    return [_read_result(folder) for folder in folders]


def _read_result(folder: Path) -> Result:
    settings = read_record(folder / "model.json")
    passes: dict[str, list[Pass]] = {}
    for path in sorted(folder.glob("*/pass-*.jsonl"), key=_place):
        decoded = read_decoded(path)
        passes.setdefault(path.parent.name, []).append(
            Pass(
                sum(d.edits for d in decoded),
                sum(d.words for d in decoded),
                sum(d.unreadable is not None for d in decoded),
            )
        )
    return Result(folder.name, Encoder(**settings.pop("encoder")), settings, passes)


def _place(path: Path) -> tuple[str, float, int]:
    """Kind of noise, level and number of a pass."""
    kind, snr = parse_condition(path.parent.name)
    return kind, snr or 0.0, int(path.stem.rpartition("-")[2])


def report(out: Path) -> str:
    """Write `results.{json,csv}`, `table_1.{md,html}` and `wer_KIND.png`; returns the table."""
    results = read_results(out)
    kinds = list(dict.fromkeys(parse_condition(c)[0] for r in results for c in r.passes))
    kinds.remove(CLEAN)
    write_text(out / "results.json", json.dumps([_as_json(r) for r in results], indent=2) + "\n")
    write_text(out / "results.csv", as_csv(results))
    pictures = []
    for kind in kinds:
        plot(results, kind, out / f"wer_{kind}.png")
        pictures.append(f"wer_{kind}.png")
    header, rows = table(results, kinds)
    notes = notes_on(results)
    write_text(out / "table_1.md", markdown(header, rows, notes, pictures))
    write_text(out / "table_1.html", as_html(header, rows, notes, pictures))
    return text_table(header, rows, notes)


def _as_json(result: Result) -> dict[str, Any]:
    conditions = {
        condition: {
            "mean_wer": round(result.mean(condition), 3),
            "standard_deviation": round(result.spread(condition), 3),
            "passes": [asdict(p) for p in passes],
        }
        for condition, passes in result.passes.items()
    }
    return {
        "model": result.model,
        "encoder": asdict(result.encoder),
        "settings": result.settings,
        "conditions": conditions,
    }


def as_csv(results: list[Result]) -> str:
    """A line a pass."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["model", "noise", "snr_db", "pass", "wer", "edits", "words", "unreadable_utterances"]
    )
    for result in results:
        for condition, passes in result.passes.items():
            kind, snr = parse_condition(condition)
            level = "" if snr is None else f"{snr:g}"
            for number, p in enumerate(passes):
                row = [f"{p.wer:.3f}", p.edits, p.words, p.unreadable]
                writer.writerow([result.model, kind, level, number, *row])
    return buffer.getvalue()


def table(results: list[Result], kinds: list[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of Table 1: network, cost, WER in % at 0 dB of each kind of noise, clean.

    Then the means over all levels, which paper A tells in its text.
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
        cost = [f"{e.parameters / 1e6:.2f}M", f"{e.flops_per_frame / 1e6:.1f}"]
        conditions = [result.curve(kind).get(TABLE_SNR) for kind in kinds] + [CLEAN]
        rates = [_cell(result, condition) for condition in conditions]
        overall = [result.mean_over(kind, levels[kind]) for kind in kinds]
        means = ["-" if mean is None else f"{mean:.2f}" for mean in overall]
        rows.append([result.model, *network, *cost, *rates, *means])
    return header, rows


def recipe(model: str) -> list[str]:
    """Table 1's teacher, initialisation and targets of the students that go by its names."""
    student = STUDENTS.get(model)
    if student is None:
        return ["-", "-", "-"]
    teacher = "generic" if model.removeprefix("tiny-") == "1" else "task-specific"
    start = "teacher" if student.from_teacher else "scratch"
    return [teacher, start, ",".join(map(str, student.targets))]


def _cell(result: Result, condition: str | None) -> str:
    if condition is None:
        return "-"
    mean = f"{result.mean(condition):.2f}"
    several = len(result.passes[condition]) > 1
    return f"{mean} ± {result.spread(condition):.2f}" if several else mean


def notes_on(results: list[Result]) -> list[str]:
    """What the rates were measured under, a line each; models may differ in it."""
    lines = [
        "WER in %: total word edits over total reference words, mean and standard deviation of the "
        "passes, each with other noise snippets; parameters and FLOPs are the encoder's."
    ]
    for result in results:
        s = result.settings
        passes = ", ".join(f"{c} {len(p)}" for c, p in result.passes.items())
        noise = ", ".join(f"{kind} {found['list']}" for kind, found in s["noise"].items())
        unreadable = sum(p.unreadable for ps in result.passes.values() for p in ps)
        words = result.passes[CLEAN][0].words
        lines.append(
            f"{result.model}: split {s['split']} of {s['data']} ({words} words), modalities "
            f"{s['modalities']}, beam {s['beam']['beam']}, length penalty "
            f"{s['beam']['length_penalty']:g}, noise {noise or 'none'}, noise seed "
            f"{s['noise_seed']}, passes: {passes}; trained with {s['trained_with']}; {unreadable} "
            "unreadable utterances in all passes (counted as deleted)"
        )
    return lines


def markdown(
    header: list[str], rows: list[list[str]], notes: list[str], pictures: list[str]
) -> str:
    lines = ["# Word error rates", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", *(f"![{name}]({name})" for name in pictures), "", *(f"- {n}" for n in notes)]
    return "\n".join(lines) + "\n"


def as_html(header: list[str], rows: list[list[str]], notes: list[str], pictures: list[str]) -> str:
    def line(tag: str, cells: list[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = [
        "<h1>Word error rates</h1>",
        "<table>",
        line("th", header),
        *(line("td", row) for row in rows),
        "</table>",
        *(f'<p><img src="{html.escape(name)}" alt="{html.escape(name)}"></p>' for name in pictures),
        "<ul>",
        *(f"<li>{html.escape(note)}</li>" for note in notes),
        "</ul>",
    ]
    head = f'<meta charset="utf-8"><title>Word error rates</title><style>{STYLE}</style>'
    return "\n".join([f"<!doctype html><html><head>{head}</head><body>", *body, "</body></html>\n"])


def text_table(header: list[str], rows: list[list[str]], notes: list[str]) -> str:
    """For a terminal."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(c.rjust(w) for c, w in others)])

    shown = [line(header), "-" * len(line(header)), *map(line, rows)]
    return "\n".join([*shown, "", *notes])


def plot(results: list[Result], kind: str, path: Path) -> None:
    """WER against SNR in one kind of noise, a line a model (paper A, Figures 3 and 4)."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("matplotlib is missing: pip install 'avhubert-ext[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    levels = sorted({snr for r in results for snr in r.curve(kind)})
    places = {snr: place for place, snr in enumerate(levels)}
    colours = plt.get_cmap("viridis")
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
            color="black" if teacher else colours(0.92 * number / max(1, len(results) - 1)),
        )
    axes.set_xticks(range(len(levels) + 1), [*(f"{snr:g}" for snr in levels), CLEAN])
    axes.set_xlabel("SNR (dB)")
    axes.set_ylabel("WER (%)")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{kind}: mean and standard deviation of the passes", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9, title="model")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)
