"""Models trained several times with other seeds: mean and spread of their word error rates."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avhubert_ext.data.files import whole_file, write_text
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.errors import InputError, check_printable
from avhubert_ext.evaluation.wer import word_error_rate
from avhubert_ext.reports.decoded import CONDITIONS, measured_under, read_hypotheses

LABELS = ("clean", "babble 0 dB", "babble 0 dB, no video")
COLORS = ("#2a6f97", "#e09f3e", "#9e2a2b")


@dataclass(frozen=True)
class Runs:
    """One model's runs: condition -> WER in % of each run, in the order they were given."""

    model: str
    wers: dict[str, list[float]]

    def mean(self, condition: str) -> float:
        return statistics.mean(self.wers[condition])

    def spread(self, condition: str) -> float:
        """Standard deviation between the runs (n - 1); 0 for a single one."""
        values = self.wers[condition]
        return statistics.stdev(values) if len(values) > 1 else 0.0


def read_runs(decoded: Iterable[tuple[str, Path]]) -> list[Runs]:
    """Runs by model from (model, folder of decoded texts); a name given again is another run."""
    found: dict[str, Runs] = {}
    for model, folder in decoded:
        runs = found.setdefault(model, Runs(model, {c: [] for c in CONDITIONS}))
        for condition in CONDITIONS:
            pairs = read_hypotheses(folder / condition / "generate-test.txt")
            runs.wers[condition].append(word_error_rate(pairs))
    return list(found.values())


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The `metrics.jsonl` of a distillation by step; a resumed run's later line counts."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise InputError(f"{path} not found: name the folder of a distillation with s3prl")
    by_step = {}
    for line in read_lines(path):
        try:
            entry = json.loads(line)
            by_step[int(entry["step"])] = entry
        except (ValueError, TypeError, KeyError):
            continue  # cut short by a kill: the resumed run has logged that step again
    if not by_step:
        raise InputError(f"{path}: nothing was logged; distill for `log_step` updates or more")
    return [by_step[step] for step in sorted(by_step)]


def text_table(models: list[Runs]) -> str:
    """A line a model, mean and standard deviation in each condition."""
    width = max(len(m.model) for m in models) + 2
    header = f"{'model':<{width}}{'runs':>5}" + "".join(f"{label:>24}" for label in LABELS)
    lines = [header, "-" * len(header)]
    for m in models:
        cells = [f"{m.mean(c):.2f} +- {m.spread(c):.2f}" for c in CONDITIONS]
        runs = len(m.wers[CONDITIONS[0]])
        lines.append(f"{m.model:<{width}}{runs:>5}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join([*lines, "", "WER in % on unseen speakers, mean and standard deviation."])


def curve(metrics: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one of the metrics, where it was measured."""
    points = [(entry["step"], entry[name]) for entry in metrics if name in entry]
    return [step for step, _ in points], [value for _, value in points]


def plot(models: list[Runs], distillations: list[list[dict[str, float]]], path: Path) -> None:
    """WER of each model and run; the training loss; the validation's cosine similarities."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("matplotlib is missing: pip install 'avhubert-ext[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (bars, losses, cosines) = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    width = 0.26
    for i, (condition, label, color) in enumerate(zip(CONDITIONS, LABELS, COLORS, strict=True)):
        places = [n + (i - 1) * width for n in range(len(models))]
        means = [m.mean(condition) for m in models]
        bars.bar(places, means, width * 0.94, label=label, color=color, alpha=0.8)
        for place, mean, model in zip(places, means, models, strict=True):
            values = model.wers[condition]
            bars.plot([place] * len(values), values, ".", color="black", markersize=5)
            bars.annotate(f"{mean:.1f}", (place, max(values)), (0, 5), textcoords="offset points",
                          ha="center", fontsize=8)  # fmt: skip
    bars.set_xticks(range(len(models)), [m.model for m in models])
    bars.set_ylabel("WER (%)")
    bars.set_title("Mean over the runs (dots: each run)", loc="left", fontsize=11)
    bars.legend(frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.07))
    for number, metrics in enumerate(distillations):
        losses.plot(*curve(metrics, "train-loss"), color=COLORS[0], alpha=0.5,
                    label="training" if not number else None)  # fmt: skip
        losses.plot(*curve(metrics, "valid-loss"), "o-", color=COLORS[1], markersize=3,
                    label="validation" if not number else None)  # fmt: skip
        logged = dict.fromkeys(name for entry in metrics for name in entry)
        names = [name for name in logged if name.startswith("valid-cosine_similarity_")]
        for name, color in zip(names, (COLORS[0], COLORS[2], COLORS[1]), strict=False):
            label = f"teacher block {name.rpartition('_')[2]}" if not number else None
            cosines.plot(*curve(metrics, name), "o-", color=color, markersize=3, label=label)
    losses.set_title("Distillation: loss", loc="left", fontsize=11)
    cosines.set_title("Validation: cosine similarity", loc="left", fontsize=11)
    for axes in (losses, cosines):
        axes.set_xlabel("updates")
        if distillations:
            axes.legend(frameon=False, fontsize=9)
    for axes in (bars, losses, cosines):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


def compare(decoded: list[tuple[str, Path]], distillations: list[Path], out: Path) -> str:
    """Write `compare.json` and `compare.png` under `out`; returns the text table.

    decoded: (model, folder of decoded texts), a model once for each of its runs; distillations:
    folders with the `metrics.jsonl` of s3prl, whose curves are drawn beside.
    """
    for name, _ in decoded:
        check_printable(name)
    models = read_runs(decoded)
    metrics = [read_metrics(folder) for folder in distillations]
    content: dict[str, Any] = {
        "wer": {m.model: m.wers for m in models},
        "distillation": {str(f): m[-1] for f, m in zip(distillations, metrics, strict=True)},
    }
    write_text(out / "compare.json", json.dumps(content, indent=2) + "\n")
    plot(models, metrics, out / "compare.png")
    return text_table(models) + "\n" + measured_under(decoded)
