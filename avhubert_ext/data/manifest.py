"""AV-HuBERT's manifests: a line with the root folder, then one line per utterance.

`id <tab> video path <tab> audio path <tab> video frames <tab> audio samples`. The root is joined to
the video path only; the audio path is used as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avhubert_ext.data.files import write_text
from avhubert_ext.errors import InputError


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest.

    Attributes:
        id: The name of the utterance.
        video: Path of the video.
        audio: Path of the audio.
        frames: Video frames at 25 Hz.
        samples: Audio samples at 16 kHz.
    """

    id: str
    video: Path
    audio: Path
    frames: int
    samples: int


def read_lines(
    path: Path, remedy: str = "make it with `avhubert-ext data prepare`, or correct the path"
) -> list[str]:
    """Read the lines of a UTF-8 text file, with any line ends, with or without a byte order mark.

    Args:
        path: The text file.
        remedy: What to do if it is missing, for the error message.

    Raises:
        InputError: If the file is missing or not UTF-8.
    """
    if not path.is_file():
        raise InputError(f"{path} not found: {remedy}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from None
    # Not `splitlines`, which also splits at characters that may occur within a line.
    return text.removesuffix("\n").split("\n") if text else []


def read_manifest(path: Path) -> list[Utterance]:
    """Read the utterances of a `.tsv` manifest, in order.

    Raises:
        InputError: If the file is missing or malformed.
    """
    lines = read_lines(path)
    if len(lines) < 2:
        raise InputError(
            f"{path} has no utterances: expected a root line, then one line per utterance"
        )
    root = Path(lines[0])
    if "\t" in lines[0]:
        raise InputError(f"{path} line 1: expected the root folder alone, `/` for absolute paths")
    return [_parse(path, number, line, root) for number, line in enumerate(lines[1:], start=2)]


def _parse(path: Path, number: int, line: str, root: Path) -> Utterance:
    match line.split("\t"):
        case [name, video, audio, frames, samples] if _is_count(frames) and _is_count(samples):
            if name and video and audio and int(frames):
                return Utterance(name, root / video, Path(audio), int(frames), int(samples))
    raise InputError(
        f"{path} line {number}: expected `id, video, audio, frames, samples` separated by tabs, "
        f"at least one frame, found {line[:80]!r}"
    )


def _is_count(text: str) -> bool:
    """Return whether a text is a whole number of at most nine digits; more is a mistake."""
    return text.isascii() and text.isdigit() and len(text) < 10


def check_name(path: Path | str) -> None:
    """Raise an InputError for a path that cannot be stored in a manifest."""
    text = str(path)
    if any(0xD800 <= ord(char) < 0xE000 for char in text):
        raise InputError(f"{text!r}: the name is not UTF-8, as manifests require; rename it")
    if any(char in text for char in "\t\n\r"):
        raise InputError(f"{text!r}: the name contains a tab or line break; rename it")


def write_manifest(path: Path, utterances: list[Utterance]) -> None:
    """Write a manifest with absolute paths (root `/`) atomically.

    Raises:
        InputError: If a name cannot be stored in a manifest.
    """
    for u in utterances:
        for name in (u.id, u.video.absolute(), u.audio.absolute()):
            check_name(name)
    rows = [
        f"{u.id}\t{u.video.absolute()}\t{u.audio.absolute()}\t{u.frames}\t{u.samples}"
        for u in utterances
    ]
    write_text(path, "\n".join(["/", *rows]) + "\n")
