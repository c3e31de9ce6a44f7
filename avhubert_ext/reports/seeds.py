"""Models that were trained several times with other seeds: mean and spread of their error rates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avhubert_ext.data.files import write_text
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.results import Rates
from avhubert_ext.reports.decoded import CONDITIONS, measured_under, plot_bars, read_rates
from avhubert_ext.reports.page import Section, as_text, pyplot, save_picture, style

COSINE = "valid-cosine_similarity_"


def report(decoded: Sequence[tuple[str, Path]], distillations: Sequence[Path], out: Path) -> str:
    """Write `compare.json` and `compare.png`.

    Args:
        decoded: name of a model and folder of decoded texts for each run, see `read_rates`.
        distillations: experiment folders of s3prl, whose curves are plotted too.
        out: folder to write to.

    Returns:
        The table, and what the rates were measured under.

    Raises:
        InputError: if decoded texts or metrics cannot be read.
    """
    models = read_rates(decoded)
    metrics = [read_metrics(folder) for folder in distillations]
    content: dict[str, Any] = {
        "wer": {m.model: {c: [p.wer for p in m.passes[c]] for c in CONDITIONS} for m in models},
        "distillation": {str(f): m[-1] for f, m in zip(distillations, metrics, strict=True)},
    }
    write_text(out / "compare.json", json.dumps(content, indent=2) + "\n")
    plot(models, metrics, out / "compare.png")
    header = ["model", "runs", *(label for label, _ in CONDITIONS.values())]
    rows = [
        [m.model, str(len(m.passes["clean"])), *(m.cell(condition) for condition in CONDITIONS)]
        for m in models
    ]
    notes = [
        "WER in % on unseen speakers, mean and standard deviation of the runs.",
        "",
        *measured_under(decoded),
    ]
    return as_text([Section("Word error rates", header, rows, [])], notes)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Read what a distillation logged.

    Args:
        folder: experiment folder of s3prl with a `metrics.jsonl`.

    Returns:
        The metrics by step. Where a resumed run has logged a step again, the later line counts.

    Raises:
        InputError: if there is no such file, or no step in it.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise InputError(f"{path} not found: name the folder of a distillation with s3prl")
    by_step = {}
    for line in read_lines(path):
        try:
            entry = json.loads(line)
            by_step[int(entry["step"])] = entry
        except (ValueError, TypeError, KeyError):
            continue  # truncated when the run was killed; the resumed run has logged that step
    if not by_step:
        raise InputError(f"{path}: nothing was logged; distill for `log_step` updates or more")
    return [by_step[step] for step in sorted(by_step)]


def curve(metrics: Sequence[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one of the metrics, where it was measured."""
    points = [(entry["step"], entry[name]) for entry in metrics if name in entry]
    return [step for step, _ in points], [value for _, value in points]


def plot(
    models: Sequence[Rates], distillations: Sequence[Sequence[dict[str, float]]], path: Path
) -> None:
    """Plot the rates, and loss and cosine similarities of the distillations."""
    plt = pyplot()
    figure, (bars, losses, cosines) = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    plot_bars(bars, models, "WER, mean and standard deviation of the runs")
    for metrics in distillations:
        losses.plot(*curve(metrics, "train-loss"), "C0-", alpha=0.5, label="training")
        losses.plot(*curve(metrics, "valid-loss"), "C1o-", markersize=3, label="validation")
        names = dict.fromkeys(n for entry in metrics for n in entry if n.startswith(COSINE))
        for number, name in enumerate(names):
            label = f"teacher block {name.removeprefix(COSINE)}"
            cosines.plot(*curve(metrics, name), f"C{number}o-", markersize=3, label=label)
    style(losses, "Distillation: loss")
    style(cosines, "Validation: cosine similarity")
    for axes in (losses, cosines):
        axes.set_xlabel("updates")
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))  # not for every run
        if once:
            axes.legend(once.values(), once.keys(), frameon=False, fontsize=9)
    save_picture(figure, path)
