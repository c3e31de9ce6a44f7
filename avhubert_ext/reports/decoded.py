"""What `fairseq-generate` printed, gathered into a table, a JSON file and a picture."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from avhubert_ext.checkpoints.model_file import load_avhubert, read_masks
from avhubert_ext.compression.pruning import kept_parameters, strip_prefix
from avhubert_ext.data.corrupt import check_scored, noted
from avhubert_ext.data.files import whole_file, write_text
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.data.normalization import TextConfig, comparable
from avhubert_ext.errors import InputError, check_printable
from avhubert_ext.evaluation.complexity import flops_per_frame
from avhubert_ext.evaluation.wer import word_error_rate

CONDITIONS = ("clean", "babble_0db", "babble_0db_no_video")


@dataclass(frozen=True)
class Row:
    """One model. Parameters (without pruned ones) and FLOPs are of the encoder, as in paper A."""

    model: str
    parameters: int
    flops_per_frame: float
    wer_clean: float
    wer_babble_0db: float
    wer_babble_0db_no_video: float


def read_hypotheses(path: Path) -> list[tuple[str, str]]:
    """(reference, hypothesis) pairs from the output of `fairseq-generate`.

    Raises InputError if the file was cut short, that is, lacks the closing line with the score, or
    if that line reports too many unreadable utterances without --allow-unreadable.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: decode with fairseq-generate --results-path first")
    text = "\n".join(read_lines(path))
    closing = re.search(r"^Generate .* WER: .*$", text, flags=re.MULTILINE)
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


def measured_under(decoded: list[tuple[str, Path]]) -> str:
    """What `fairseq-generate` printed beside each rate: a line for each model and condition."""
    lines = ["", "Measured under, as fairseq-generate reported:"]
    for model, folder in decoded:
        for condition in CONDITIONS:
            text = "\n".join(read_lines(folder / condition / "generate-test.txt"))
            told = re.search(r"^Generate .* WER: \S+ \((.*)\)$", text, flags=re.MULTILINE)
            lines.append(f"{model}, {condition}: {told[1] if told else 'not reported'}")
    return "\n".join(lines)


def make_row(name: str, checkpoint: Path, decoded: Path) -> Row:
    """The row of one model; `decoded` holds a folder for each condition."""
    encoder = load_avhubert(checkpoint)
    masks = strip_prefix(read_masks(checkpoint), "encoder.")
    wers = [word_error_rate(read_hypotheses(decoded / c / "generate-test.txt")) for c in CONDITIONS]
    parameters = kept_parameters(encoder, masks)
    return Row(name, parameters, flops_per_frame(encoder), *(round(w, 2) for w in wers))


def text_table(rows: Iterable[Row]) -> str:
    """The rows for a terminal."""
    header = f"{'model':<20}{'parameters':>12}{'MFLOPs/frame':>14}"
    header += f"{'clean':>9}{'babble 0 dB':>13}{'no video':>10}"
    lines = [
        f"{r.model:<20}{r.parameters / 1e6:>11.2f}M{r.flops_per_frame / 1e6:>14.1f}"
        f"{r.wer_clean:>9.2f}{r.wer_babble_0db:>13.2f}{r.wer_babble_0db_no_video:>10.2f}"
        for r in rows
    ]
    note = (
        "WER in % on unseen speakers; `no video` is babble at 0 dB without the video. Parameters\n"
        "(without pruned ones) and FLOPs are of the encoder; pruning single weights saves no FLOPs."
    )
    return "\n".join([header, "-" * len(header), *lines, "", note])


def plot(rows: list[Row], path: Path) -> None:
    """Two panels: WER by model and condition, and WER against encoder size."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("matplotlib is missing: pip install 'avhubert-ext[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    labels = ("clean", "babble 0 dB", "babble 0 dB, no video")
    colors = ("#2a6f97", "#e09f3e", "#9e2a2b")
    figure, (bars, sizes) = plt.subplots(
        1, 2, figsize=(11, 4.2), width_ratios=(1.7, 1), layout="constrained"
    )
    width = 0.26
    for i, (condition, label, color) in enumerate(zip(CONDITIONS, labels, colors, strict=True)):
        values = [getattr(r, f"wer_{condition}") for r in rows]
        positions = [n + (i - 1) * width for n in range(len(rows))]
        drawn = bars.bar(positions, values, width * 0.94, label=label, color=color)
        bars.bar_label(drawn, fmt="%.1f", fontsize=8, padding=2)
    bars.set_xticks(range(len(rows)), [r.model for r in rows])
    bars.set_ylabel("WER (%)")
    bars.set_title("Word error rate on unseen speakers", loc="left", fontsize=11)
    bars.legend(frameon=False, fontsize=9)
    for r in rows:
        size = r.parameters / 1e6
        sizes.plot(size, r.wer_babble_0db, "o", markersize=9, color=colors[1])
        sizes.plot(size, r.wer_clean, "o", markersize=9, color=colors[0])
        sizes.annotate(r.model, (size, r.wer_babble_0db), (8, 0), textcoords="offset points",
                       va="center", fontsize=8)  # fmt: skip
    sizes.set_xlim(0, 1.25 * max(r.parameters for r in rows) / 1e6)
    sizes.set_ylim(0, 1.25 * max(r.wer_babble_0db for r in rows))
    sizes.set_ylabel("WER (%)")
    sizes.set_xlabel("encoder parameters (millions)")
    sizes.set_title("Accuracy against size", loc="left", fontsize=11)
    for axes in (bars, sizes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)


def report(models: list[tuple[str, Path, Path]], out: Path) -> str:
    """Write `results.json` and `results.png` under `out`; returns the text table.

    models: (name, checkpoint, folder of decoded texts).
    """
    for name, *_ in models:
        check_printable(name)
    rows = [make_row(*model) for model in models]
    write_text(out / "results.json", json.dumps([asdict(r) for r in rows], indent=2) + "\n")
    plot(rows, out / "results.png")
    return text_table(rows) + "\n" + measured_under([(name, text) for name, _, text in models])
