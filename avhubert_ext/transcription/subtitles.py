"""Transcripts as text, JSON, SubRip (.srt) and WebVTT (.vtt)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from avhubert_ext.transcription.alignment import Word
from avhubert_ext.transcription.transcribe import Transcript

# Readable subtitles, following common guidelines.
LINE = 42  # characters
LINES = 2
LONGEST, SHORTEST = 7.0, 1.0  # seconds; a shorter cue is extended if there is room
PAUSE = 0.8  # seconds between words that end a cue


@dataclass(frozen=True)
class Cue:
    """Lines that are shown from `start` to `end` (seconds)."""

    lines: tuple[str, ...]
    start: float
    end: float


def cues_of(words: Sequence[Word]) -> list[Cue]:
    """Group words into subtitles of at most LINES lines of LINE characters and LONGEST seconds.

    A word longer than a line gets its own line; a word that lasts longer than LONGEST is shown for
    LONGEST.
    """
    groups: list[list[Word]] = []
    for word in words:
        if groups and _fits(groups[-1], word):
            groups[-1].append(word)
        else:
            groups.append([word])
    starts = [group[0].start for group in groups]
    return [
        Cue(
            _lines([word.text for word in group]),
            start,
            min(max(group[-1].end, min(start + SHORTEST, following)), start + LONGEST),
        )
        for group, start, following in zip(groups, starts, [*starts[1:], math.inf], strict=False)
    ]


def _fits(group: list[Word], word: Word) -> bool:
    texts = [*(w.text for w in group), word.text]
    return (
        word.start - group[-1].end < PAUSE
        and word.end - group[0].start <= LONGEST
        and len(_wrapped(texts, LINE)) <= LINES
    )


def _lines(texts: list[str]) -> tuple[str, ...]:
    """Wrap words into as few lines as possible, of about equal length."""
    count = len(_wrapped(texts, LINE))
    widths = range(max(map(len, texts)), LINE)
    narrow = (lines for width in widths if len(lines := _wrapped(texts, width)) == count)
    return next(narrow, _wrapped(texts, LINE))


def _wrapped(texts: list[str], width: int) -> tuple[str, ...]:
    lines = texts[:1]
    for text in texts[1:]:
        longer = f"{lines[-1]} {text}"
        if len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(text)
    return tuple(lines)


def to_txt(transcript: Transcript) -> str:
    """Format as plain text on one line."""
    return transcript.text + "\n"


def to_json(transcript: Transcript, **about: str) -> str:
    """Format as one JSON object on one line; about: additional fields, such as file and model."""
    words = [
        {
            "text": word.text,
            "start": round(word.start, 2),
            "end": round(word.end, 2),
            "confidence": round(word.confidence, 4),
        }
        for word in transcript.words
    ]
    facts = {
        "modality": transcript.modality,
        "seconds": transcript.seconds,
        "notes": list(transcript.notes),
    }
    content = about | facts | {"text": transcript.text, "words": words}
    text = json.dumps(content, ensure_ascii=False) + "\n"
    # Bytes of a file name that are not UTF-8 become JSON escapes, such as \udcff.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def to_srt(transcript: Transcript) -> str:
    """Format as SubRip subtitles."""
    blocks = [
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n" + "\n".join(cue.lines)
        for number, cue in enumerate(cues_of(transcript.words), start=1)
    ]
    return "\n\n".join(blocks) + "\n" if blocks else ""


def to_vtt(transcript: Transcript) -> str:
    """Format as WebVTT subtitles."""
    blocks = [
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n" + _escaped("\n".join(cue.lines))
        for cue in cues_of(transcript.words)
    ]
    return "\n\n".join(["WEBVTT", *blocks]) + "\n"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float, point: str) -> str:
    """Format seconds like 01:02:03.456."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


# File extension -> formatter.
FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": to_txt,
    "json": to_json,
    "srt": to_srt,
    "vtt": to_vtt,
}
