"""Results of `evaluate`: word error rates by model, condition and pass; as JSON and CSV."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avhubert_ext.data.corrupt import check_scored, scored_note
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.evaluate import CLEAN, EncoderSummary, read_record
from avhubert_ext.evaluation.hypotheses import read_decoded

ACOUSTIC = re.compile(r"(.+)_(-?[\d.]+)dB")
VISUAL = re.compile(r"(.+)_level(\d+)")


@dataclass(frozen=True)
class Place:
    """A parsed condition: a kind of noise at an SNR (dB) or a level; clean speech has neither."""

    kind: str
    snr_db: float | None = None
    level: int | None = None


def parse_condition(condition: str) -> Place:
    """Parse a condition such as `babble_-5dB`, `block_level3` or `clean`."""
    if match := ACOUSTIC.fullmatch(condition):
        return Place(match[1], snr_db=float(match[2]))
    if match := VISUAL.fullmatch(condition):
        return Place(match[1], level=int(match[2]))
    return Place(condition)


@dataclass(frozen=True)
class Pass:
    """Counts of one pass: word errors, reference words, utterances, unreadable utterances."""

    edits: int
    words: int
    utterances: int
    unreadable: int

    @property
    def wer(self) -> float:
        """Word error rate in percent."""
        return 100 * self.edits / self.words


@dataclass(frozen=True)
class Rates:
    """A model's passes by condition."""

    model: str
    passes: dict[str, list[Pass]]

    def mean(self, condition: str) -> float:
        """Return the mean WER of a condition's passes in percent."""
        return statistics.mean(p.wer for p in self.passes[condition])

    def spread(self, condition: str) -> float:
        """Return the sample standard deviation of the passes' WER; 0 for a single pass."""
        rates = [p.wer for p in self.passes[condition]]
        return statistics.stdev(rates) if len(rates) > 1 else 0.0

    def mean_over(self, conditions: Iterable[str | None]) -> float | None:
        """Return the mean over conditions; None if there are none, or one is missing."""
        found = list(conditions)
        if not found or not all(condition in self.passes for condition in found):
            return None
        return statistics.mean(self.mean(condition) for condition in found)

    def cell(self, condition: str | None) -> str:
        """Format a WER in percent for a table, with the standard deviation of several passes."""
        if condition is None:
            return "-"
        mean = f"{self.mean(condition):.2f}"
        several = len(self.passes[condition]) > 1
        return f"{mean} ± {self.spread(condition):.2f}" if several else mean


@dataclass(frozen=True)
class Result(Rates):
    """A model that was evaluated: its rates, its encoder, and what they were measured under."""

    encoder: EncoderSummary
    settings: dict[str, Any]

    def curve(self, kind: str) -> dict[float, str]:
        """SNR in dB -> condition, of one kind of noise, rising."""
        places = {condition: parse_condition(condition) for condition in self.passes}
        found = {p.snr_db: c for c, p in places.items() if p.kind == kind and p.snr_db is not None}
        return dict(sorted(found.items()))

    def levels(self, kind: str) -> dict[int, str]:
        """Level -> condition, of one type of visual noise, rising."""
        places = {condition: parse_condition(condition) for condition in self.passes}
        found = {p.level: c for c, p in places.items() if p.kind == kind and p.level is not None}
        return dict(sorted(found.items()))

    def unreadable(self) -> int:
        """Return the number of unreadable utterances in all passes."""
        return sum(p.unreadable for passes in self.passes.values() for p in passes)

    def unreadable_note(self) -> str:
        """Report that number, and whether the user allowed it."""
        total = sum(p.utterances for passes in self.passes.values() for p in passes)
        allowed = self.settings.get("allow_unreadable", False)
        return scored_note(self.unreadable(), total, allowed) + " in all passes"

    def cost(self) -> list[str]:
        """Format parameters and MFLOPs per frame for a table."""
        e = self.encoder
        parameters = "unknown" if e.parameters is None else f"{e.parameters / 1e6:.2f}M"
        return [parameters, f"{e.flops_per_frame / 1e6:.1f}"]


def read_results(out: Path) -> list[Result]:
    """Read the results of all models in a folder of `evaluate`.

    Models without a pass on clean speech yet are left out.

    Returns:
        The results by name, `teacher` first.

    Raises:
        InputError: If there are no results, a file is damaged, or a pass has too many unreadable
            utterances and they were not allowed.
    """
    folders = sorted(path.parent.parent for path in out.glob(f"*/{CLEAN}/pass-0.jsonl"))
    if not folders:
        raise InputError(f"{out}: no results in it; run `avhubert-ext evaluate` first")
    folders.sort(key=lambda folder: folder.name != "teacher")
    return [_read_result(folder) for folder in folders]


def _read_result(folder: Path) -> Result:
    settings = read_record(folder / "model.json")
    passes: dict[str, list[Pass]] = {}
    for path in sorted(folder.glob("*/pass-*.jsonl"), key=_order):
        decoded = read_decoded(path)
        reasons = [f"{path}: {d.unreadable}" for d in decoded if d.unreadable]
        check_scored(reasons, len(decoded), settings.get("allow_unreadable", False))
        passes.setdefault(path.parent.name, []).append(
            Pass(
                sum(d.edits for d in decoded),
                sum(d.words for d in decoded),
                len(decoded),
                len(reasons),
            )
        )
    try:
        encoder = EncoderSummary(**settings.pop("encoder"))
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"{folder / 'model.json'}: damaged; delete {folder} and evaluate again"
        ) from None
    return Result(folder.name, passes, encoder, settings)


def _order(path: Path) -> tuple[str, float, int]:
    """Sort key of a pass: kind of noise, SNR or level, number."""
    place = parse_condition(path.parent.name)
    return place.kind, place.snr_db or place.level or 0.0, int(path.stem.rpartition("-")[2])


def as_json(result: Result) -> dict[str, Any]:
    """Return the results of a model as a JSON object."""
    conditions = {
        condition: {
            "noise": parse_condition(condition).kind,
            "snr_db": parse_condition(condition).snr_db,
            "level": parse_condition(condition).level,
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


COLUMNS = (
    "model", "noise", "snr_db", "level", "pass", "wer", "edits", "words", "unreadable_utterances"
)  # fmt: skip


def as_csv(results: list[Result]) -> str:
    """Format results as CSV, one line per pass."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        for condition, passes in result.passes.items():
            place = parse_condition(condition)
            snr = "" if place.snr_db is None else f"{place.snr_db:g}"
            for number, p in enumerate(passes):
                row = [f"{p.wer:.3f}", p.edits, p.words, p.unreadable]
                writer.writerow([result.model, place.kind, snr, place.level, number, *row])
    return buffer.getvalue()
