"""Transcription of a clip of any length, segment by segment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from avhubert_ext.data.audio import SAMPLES_PER_FRAME
from avhubert_ext.data.video import FPS, SLACK
from avhubert_ext.decoding.recognition import Recognition, clip_modality
from avhubert_ext.errors import InputError
from avhubert_ext.transcription.alignment import Word, words_of
from avhubert_ext.transcription.segments import Segment, segment, spans

SHORTEST = 2.0  # seconds; the least allowed length of segments
PLACES = 3  # how many places a note lists

Recognize = Callable[[np.ndarray | None, np.ndarray | None], Recognition]


@dataclass(frozen=True)
class Transcript:
    """The transcript of a clip.

    Attributes:
        text: The words, separated by blanks.
        words: The words in order, with times and confidence.
        modality: What was recognized: "both", "audio" or "video".
        seconds: The clip's length.
        notes: What a reader should know, one line each, for example where the audio alone was
            used.
    """

    text: str
    words: tuple[Word, ...]
    modality: str
    seconds: float
    notes: tuple[str, ...] = ()


def transcribe_clip(
    recognize: Recognize,
    modalities: tuple[str, ...],
    audio: np.ndarray | None,
    video: np.ndarray | None,
    *,
    seen: np.ndarray | None = None,
    longest: float = 15.0,
    progress: Callable[[int, int], None] | None = None,
) -> Transcript:
    """Transcribe a clip; this implements `Recognizer.transcribe`, which documents it.

    Args:
        recognize: Recognizes a short clip, see `Recognizer.recognize`.
        modalities: The modalities that it takes.
        audio: int16 [N] at 16 kHz, or None.
        video: The mouth region, uint8 [T, 96, 96] at 25 frames per second, or None.
        seen: bool [T], whether each frame of `video` shows the mouth; None for all frames.
        longest: Seconds that are recognized at once.
        progress: Called with the number of frames done and the total.

    Raises:
        InputError: If `longest` is too short, or the model does not take the clip.
    """
    check_longest(longest)
    modality, _ = clip_modality(audio, video, modalities)
    audio, seen, notes = _timeline(audio, video, seen)
    frames = len(seen)
    parts = segment(audio, video, int(min(longest * FPS, frames)), seen)
    alone = "audio" in modalities and audio is not None
    if video is not None:
        unseen = [span for span in spans(seen) if not span[2]]
        notes += [_unseen_note(unseen, alone)] if unseen else []
        if alone and unseen and not any(part.seen for part in parts):
            modality = "audio"
        elif not alone:
            parts = [part for part in parts if part.seen]
    words: list[Word] = []
    for part in parts:
        heard = None if audio is None else audio[_samples(part)]
        shown = None if video is None or not part.seen else _held(video, part)
        found = words_of(recognize(heard, shown))
        shift = part.start / FPS
        later = [replace(w, start=w.start + shift, end=w.end + shift) for w in found]
        words = joined(words, later, part)
        if progress is not None:
            progress(part.right, frames)
    if progress is not None:
        progress(frames, frames)
    text = " ".join(w.text for w in words)
    return Transcript(text, tuple(words), modality, frames / FPS, tuple(notes))


def _timeline(
    audio: np.ndarray | None, video: np.ndarray | None, seen: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray, list[str]]:
    """Fit the streams to a clip of T frames: audio [T * 640], seen, bool [T], and notes.

    T is the video's length, unless the audio is longer by more than SLACK frames.
    """
    heard = 0 if audio is None else -(-len(audio) // SAMPLES_PER_FRAME)
    if video is None:
        return None if audio is None else fitted(audio, heard), np.zeros(heard, bool), []
    shown = len(video)
    if seen is None:
        seen = np.ones(shown, bool)
    elif np.shape(seen) != (shown,):
        raise InputError(
            f"seen is {list(np.shape(seen))}: expected one value for each of {shown} frames"
        )
    if audio is None:
        return None, seen, []
    if heard > shown + SLACK:
        seen = np.pad(seen, (0, heard - shown))
    notes = []
    if abs(heard - shown) > SLACK:
        rest = "silence is filled in" if heard < shown else "there is no picture for the rest"
        ends = f"the sound ends at {heard / FPS:.1f} s, the picture at {shown / FPS:.1f} s"
        notes = [f"{ends}: {rest}"]
    return fitted(audio, len(seen)), seen, notes


def fitted(audio: np.ndarray, frames: int) -> np.ndarray:
    """Cut audio [N], or pad it with silence, to [frames * 640]."""
    return np.pad(audio, (0, max(0, frames * SAMPLES_PER_FRAME - len(audio))))[
        : frames * SAMPLES_PER_FRAME
    ]


def _unseen_note(unseen: list[tuple[int, int, bool]], alone: bool) -> str:
    """Report where the picture was not used; only the first few places."""
    places = [f"{start / FPS:.1f} to {stop / FPS:.1f} s" for start, stop, _ in unseen[:PLACES]]
    more = f" and {len(unseen) - PLACES} more places" if len(unseen) > PLACES else ""
    what = "sound alone" if alone else "left out"
    return f"no picture of the face from {', '.join(places)}{more}: {what} there"


def _held(video: np.ndarray, part: Segment) -> np.ndarray:
    """Return the frames of a segment; beyond the end of the video, its last frame."""
    if part.stop <= len(video):
        return video[part.start : part.stop]
    return video[np.minimum(np.arange(part.start, part.stop), len(video) - 1)]


def check_longest(seconds: float) -> None:
    """Raise an InputError for segments that are too short for words."""
    if not seconds >= SHORTEST:
        raise InputError(f"longest {seconds:g}: expected at least {SHORTEST:g} seconds")


def _samples(part: Segment) -> slice:
    return slice(part.start * SAMPLES_PER_FRAME, part.stop * SAMPLES_PER_FRAME)


def joined(words: list[Word], later: list[Word], part: Segment) -> list[Word]:
    """Append the words of the next segment, each word of the overlap once.

    The segments are joined at the word nearest to the cut that both have at the same time, which
    means that the middle of each lies within the other (so a repeated word does not match).
    Without such a word, each word belongs to the segment that its middle lies in.

    Args:
        words: The words so far.
        later: The words of the next segment.
        part: The next segment.
    """
    cut = part.left / FPS
    same = [
        (abs(_middle(a) - cut), i, j)
        for i, a in enumerate(words)
        if a.end * FPS > part.start  # within the overlap
        for j, b in enumerate(later)
        if a.text == b.text and a.start <= _middle(b) <= a.end and b.start <= _middle(a) <= b.end
    ]
    if same:
        _, i, j = min(same)
        return _one_by_one(words[: i + 1], later[j + 1 :])
    kept = [word for word in words if _middle(word) < cut]
    return _one_by_one(kept, [word for word in later if _middle(word) >= cut])


def _one_by_one(words: list[Word], later: list[Word]) -> list[Word]:
    """Concatenate, adjusting the words at the seam so that they do not overlap in time."""
    if not words or not later or words[-1].end <= later[0].start:
        return words + later
    last, following = words[-1], later[0]
    change = following.start if following.start > last.start else last.end
    return [
        *words[:-1],
        replace(last, end=change),
        replace(following, start=change),
        *later[1:],
    ]


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2
