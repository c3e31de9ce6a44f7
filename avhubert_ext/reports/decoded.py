"""Word error rates from the output of `fairseq-generate`: a table, a JSON file and a plot."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avhubert_ext.checkpoints.model_file import load_avhubert, read_masks
from avhubert_ext.compression.pruning import kept_parameters, strip_prefix
from avhubert_ext.data.corrupt import check_scored, noted
from avhubert_ext.data.files import write_text
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.data.normalization import TextConfig, comparable
from avhubert_ext.errors import InputError, check_printable
from avhubert_ext.evaluation.complexity import flops_per_frame
from avhubert_ext.evaluation.results import Pass, Rates
from avhubert_ext.evaluation.wer import word_edits
from avhubert_ext.reports.page import Section, as_text, pyplot, save_picture, style_rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Folder of each condition -> its name in tables and plots, and its color.
CONDITIONS = {
    "clean": ("clean", "#2a6f97"),
    "babble_0db": ("babble 0 dB", "#e09f3e"),
    "babble_0db_no_video": ("babble 0 dB, no video", "#9e2a2b"),
}
MARKERS = "osD^v<>p*"  # one per model, repeated
GENERATED = "generate-test.txt"
CLOSING = re.compile(r"^Generate .* WER: (?:\S+ \((.*)\)|.*)$", re.MULTILINE)


def read_hypotheses(path: Path) -> list[tuple[str, str]]:
    """Read the texts that `fairseq-generate` decoded.

    Args:
        path: its `generate-test.txt`.

    Returns:
        Reference and hypothesis of each utterance, normalized.

    Raises:
        InputError: if the file is missing or truncated, that is, has no closing line with the word
            error rate, or if that line reports too many unreadable utterances.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: decode with fairseq-generate --results-path first")
    text = "\n".join(read_lines(path))
    closing = CLOSING.search(text)
    if not closing:
        raise InputError(f"{path}: no closing WER line; run fairseq-generate --scoring wer again")
    references = dict(re.findall(r"^T-(\d+)\t(.*)$", text, flags=re.MULTILINE))
    hypotheses = dict(re.findall(r"^D-(\d+)\t\S+\t(.*)$", text, flags=re.MULTILINE))
    if references.keys() != hypotheses.keys():
        raise InputError(f"{path}: utterances without a hypothesis; run fairseq-generate again")
    unreadable, allowed = noted(closing[0])
    check_scored([f"see {path}"] * unreadable, len(references), allowed)
    config = TextConfig.find(text)
    return [
        (comparable(reference, config), comparable(hypotheses[key], config))
        for key, reference in references.items()
    ]


def read_rates(decoded: Iterable[tuple[str, Path]]) -> list[Rates]:
    """Read the word error rates of models.

    Args:
        decoded: name of a model, and the folder with a folder for each of `CONDITIONS`. A name that
            is given again stands for another run of the same model.

    Returns:
        The rates of each model, with one pass per run.

    Raises:
        InputError: as `read_hypotheses`, or if a name cannot be printed.
    """
    found: dict[str, Rates] = {}
    for model, folder in decoded:
        check_printable(model)
        rates = found.setdefault(model, Rates(model, {condition: [] for condition in CONDITIONS}))
        for condition, passes in rates.passes.items():
            pairs = read_hypotheses(folder / condition / GENERATED)
            edits = sum(word_edits(*pair) for pair in pairs)
            words = sum(len(reference.split()) for reference, _ in pairs)
            passes.append(Pass(edits, words, len(pairs), 0))
    return list(found.values())


def measured_under(decoded: Iterable[tuple[str, Path]]) -> list[str]:
    """The conditions that `fairseq-generate` printed next to each rate, one line for each."""
    lines = ["Measured under, as fairseq-generate reported:"]
    for model, folder in decoded:
        for condition in CONDITIONS:
            closing = CLOSING.search("\n".join(read_lines(folder / condition / GENERATED)))
            lines.append(f"{model}, {condition}: {(closing and closing[1]) or 'not reported'}")
    return lines


def report(models: Sequence[tuple[str, Path, Path]], out: Path) -> str:
    """Write `results.json` and `results.png`.

    Args:
        models: name, checkpoint, and folder of decoded texts (see `read_rates`) of each model.
        out: folder to write to.

    Returns:
        The table, and what the rates were measured under.

    Raises:
        InputError: if a checkpoint or a decoded text cannot be read.
    """
    decoded = [(name, folder) for name, _, folder in models]
    costs = [encoder_cost(checkpoint) for _, checkpoint, _ in models]
    rates = read_rates(decoded)
    rows = [
        {"model": r.model} | cost | {f"wer_{c}": round(r.mean(c), 2) for c in CONDITIONS}
        for r, cost in zip(rates, costs, strict=True)
    ]
    write_text(out / "results.json", json.dumps(rows, indent=2) + "\n")
    plot(rows, rates, out / "results.png")
    header = ["model", "parameters", "MFLOPs/frame", *(label for label, _ in CONDITIONS.values())]
    cells = [
        [row["model"], f"{row['parameters'] / 1e6:.2f}M", f"{row['flops_per_frame'] / 1e6:.1f}"]
        + [r.cell(condition) for condition in CONDITIONS]
        for row, r in zip(rows, rates, strict=True)
    ]
    notes = [
        "WER in % on unseen speakers. Parameters (without pruned ones) and FLOPs are those of the",
        "encoder; pruning single weights saves no FLOPs.",
        "",
        *measured_under(decoded),
    ]
    return as_text([Section("Word error rates", header, cells, [])], notes)


def encoder_cost(checkpoint: Path) -> dict[str, Any]:
    """Parameters without pruned ones, and FLOPs per frame, of the encoder in a checkpoint."""
    encoder = load_avhubert(checkpoint)
    masks = strip_prefix(read_masks(checkpoint), "encoder.")
    parameters, flops = kept_parameters(encoder, masks), flops_per_frame(encoder)
    return {"parameters": parameters, "flops_per_frame": flops}


def plot(rows: Sequence[dict[str, Any]], rates: Sequence[Rates], path: Path) -> None:
    """Plot rates by model and condition, and rates against the size of the encoder."""
    figure, (bars, sizes) = pyplot().subplots(
        1, 2, figsize=(11, 4.2), width_ratios=(1.7, 1), layout="constrained"
    )
    plot_bars(bars, rates, "Word error rate on unseen speakers")
    for row, marker in zip(rows, cycle(MARKERS)):
        for condition, (_, color) in CONDITIONS.items():
            rate = row[f"wer_{condition}"]
            sizes.plot(row["parameters"] / 1e6, rate, marker, color=color, markersize=8)
        sizes.plot([], [], marker, color="0.4", label=row["model"])
    sizes.set_xlim(0)
    sizes.legend(frameon=False, fontsize=9)
    sizes.set_xlabel("encoder parameters (millions)")
    style_rates(sizes, "Accuracy against size")
    save_picture(figure, path)


def plot_bars(axes: Axes, rates: Sequence[Rates], title: str) -> None:
    """Draw a group of bars for each model, one bar per condition, with the spread of its runs."""
    width = 0.8 / len(CONDITIONS)
    for number, (condition, (label, color)) in enumerate(CONDITIONS.items()):
        places = [group + number * width for group in range(len(rates))]
        means = [r.mean(condition) for r in rates]
        spreads = [r.spread(condition) for r in rates]
        bars = axes.bar(
            places, means, width, yerr=spreads if any(spreads) else None, label=label, color=color
        )
        axes.bar_label(bars, [f"{mean:.1f}" for mean in means], fontsize=8, padding=2)
    axes.set_xticks([group + width for group in range(len(rates))], [r.model for r in rates])
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.07))
    style_rates(axes, title)
