"""Decoded utterances as JSON lines: what was said, what was understood, how wrong that is."""

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
    """One utterance. score: natural logarithm of the hypothesis' probability over length**penalty.

    noise: file, start and level of what the audio was mixed with, None for clean speech.
    unreadable: why the utterance could not be read; all its words then count as deleted.
    visual_noise: type and level of the video's noise, None for clean video.
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
        return word_edits(self.reference, self.hypothesis)

    @property
    def words(self) -> int:
        return len(self.reference.split())

    def line(self) -> str:
        return json.dumps(asdict(self) | {"edits": self.edits, "words": self.words}) + "\n"


def write_decoded(path: Path, decoded: list[Decoded]) -> None:
    """All lines in one step."""
    write_text(path, "".join(utterance.line() for utterance in decoded))


def append_decoded(path: Path, decoded: list[Decoded]) -> None:
    """Add lines to a file."""
    make_folder(path.parent)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(utterance.line() for utterance in decoded)


def read_decoded(path: Path) -> list[Decoded]:
    """The lines of a file. Raises InputError that names the line which is none."""
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
