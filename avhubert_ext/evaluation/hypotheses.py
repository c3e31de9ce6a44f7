"""Decoded utterances as JSON lines: reference, hypothesis and word errors."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avhubert_ext.data.files import make_folder, write_text
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.wer import word_edits


@dataclass(frozen=True)
class Decoded:
    """A decoded utterance.

    Attributes:
        id: The utterance.
        reference: What was said.
        hypothesis: What was recognized.
        score: The hypothesis's score in the search, see `Hypothesis`.
        noise: Files, starts and level of the acoustic noise; None for clean audio.
        unreadable: Why the utterance could not be read, or None. If it could not, all its words
            count as deleted.
        visual_noise: Type and level of the visual noise; None for clean video.
    """

    id: str
    reference: str
    hypothesis: str
    score: float
    noise: dict[str, Any] | None = None
    unreadable: str | None = None
    visual_noise: dict[str, Any] | None = None

    @property
    def edits(self) -> int:
        """Number of word errors."""
        return word_edits(self.reference, self.hypothesis)

    @property
    def words(self) -> int:
        """Number of reference words."""
        return len(self.reference.split())

    def line(self) -> str:
        """Format as one JSON line, with the counts."""
        return json.dumps(asdict(self) | {"edits": self.edits, "words": self.words}) + "\n"


def write_decoded(path: Path, decoded: list[Decoded]) -> None:
    """Write a file of utterances in one step."""
    write_text(path, "".join(utterance.line() for utterance in decoded))


def append_decoded(path: Path, decoded: list[Decoded]) -> None:
    """Append utterances to a file."""
    make_folder(path.parent)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(utterance.line() for utterance in decoded)


def read_decoded(path: Path) -> list[Decoded]:
    """Read a file of utterances.

    Raises:
        InputError: If a line is not a decoded utterance, or its counts do not match.
    """
    decoded = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            fields = json.loads(line)
            counts = fields.pop("edits"), fields.pop("words")
            decoded.append(Decoded(**fields))
            if counts != (decoded[-1].edits, decoded[-1].words):
                raise ValueError("damaged")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"{path} line {number}: not a decoded utterance; decode again"
            ) from None
    return decoded
