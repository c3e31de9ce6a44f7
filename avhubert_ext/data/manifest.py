"""AV-HuBERT's manifest: a header line with the root, then one utterance a line.

`id <tab> video path <tab> audio path <tab> video frames <tab> audio samples`; the root is joined to
the video path only, the audio path is used as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avhubert_ext.data.files import write_text
from avhubert_ext.errors import InputError


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest; `frames` are video frames at 25 Hz, `samples` audio at 16 kHz."""

    id: str
    video: Path
    audio: Path
    frames: int
    samples: int


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; an InputError names the file if it is not there."""
    if not path.is_file():
        raise InputError(f"{path} not found: make it with `avhubert-ext prepare`, or mend the path")
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}); convert it") from None


def read_manifest(path: Path) -> list[Utterance]:
    """All utterances of a `.tsv` manifest, in its order."""
    lines = read_lines(path)
    if len(lines) < 2:
        raise InputError(f"{path} has no utterances: a manifest is a root line, then one a line")
    root = Path(lines[0])
    return [_parse(path, number, line, root) for number, line in enumerate(lines[1:], start=2)]


def _parse(path: Path, number: int, line: str, root: Path) -> Utterance:
    fields = line.split("\t")
    if len(fields) != 5 or not (fields[3].isdigit() and fields[4].isdigit()):
        raise InputError(
            f"{path} line {number}: expected `id, video, audio, frames, samples` separated by tabs"
        )
    return Utterance(fields[0], root / fields[1], Path(fields[2]), int(fields[3]), int(fields[4]))


def write_manifest(path: Path, utterances: list[Utterance]) -> None:
    """Write a manifest with absolute paths (root `/`), in one step."""
    rows = [
        f"{u.id}\t{u.video.absolute()}\t{u.audio.absolute()}\t{u.frames}\t{u.samples}"
        for u in utterances
    ]
    write_text(path, "\n".join(["/", *rows]) + "\n")
