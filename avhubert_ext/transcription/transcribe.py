"""From a clip of any length to words with their times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from avhubert_ext.data.audio import SAMPLES_PER_FRAME
from avhubert_ext.data.video import FPS
from avhubert_ext.errors import InputError
from avhubert_ext.recognition import Recognizer, check_clip
from avhubert_ext.transcription.alignment import Word, words_of
from avhubert_ext.transcription.segments import Segment, segment

SHORTEST = 2.0  # seconds; less is no segment for a model


@dataclass(frozen=True)
class Transcript:
    """The words of a clip in their order, and what else there is to tell.

    modality: both, audio or video, what was recognised; seconds: the clip's length.
    """

    text: str
    words: tuple[Word, ...]
    modality: str
    seconds: float


def transcribe(
    recognizer: Recognizer,
    audio: np.ndarray | None,
    video: np.ndarray | None,
    *,
    longest: float = 15.0,
    progress: Callable[[int, int], None] | None = None,
) -> Transcript:
    """What is said in a clip, and when.

    audio: int16 [N] at 16 kHz; video: the mouth region, uint8 [T, 96, 96] at 25 frames a second;
    either may be None if the recogniser takes the other alone. longest: seconds recognised at once;
    a longer clip is cut at pauses. progress: called with the frames done and all there are.
    Raises InputError where the recogniser does not take the clip.
    """
    check_longest(longest)
    modality, frames = check_clip(audio, video, recognizer.modalities)
    parts = segment(audio, video, int(min(longest * FPS, frames)))
    if audio is not None:  # cut, or filled up, as models would do
        audio = np.pad(audio, (0, max(0, frames * SAMPLES_PER_FRAME - len(audio))))
    words: list[Word] = []
    for part in parts:
        heard = None if audio is None else audio[_samples(part)]
        seen = None if video is None else video[part.start : part.stop]
        found = words_of(recognizer.recognize(heard, seen))
        shift = part.start / FPS
        later = [replace(w, start=w.start + shift, end=w.end + shift) for w in found]
        words = joined(words, later, part)
        if progress is not None:
            progress(part.right, frames)
    if progress is not None:
        progress(frames, frames)
    return Transcript(" ".join(w.text for w in words), tuple(words), modality, frames / FPS)


def check_longest(seconds: float) -> None:
    """Raise InputError for segments that are too short for words."""
    if not seconds >= SHORTEST:
        raise InputError(f"--longest {seconds:g}: expected at least {SHORTEST:g} seconds")


def _samples(part: Segment) -> slice:
    return slice(part.start * SAMPLES_PER_FRAME, part.stop * SAMPLES_PER_FRAME)


def joined(words: list[Word], later: list[Word], part: Segment) -> list[Word]:
    """Words so far, then those of the next segment; of what both heard, each word once.

    Where they overlap they are joined at a word that both have at the same time (the middle of each
    is in the other: a neighbour that is the same word said again is not), the one nearest to the
    cut; without one, words belong to the segment that their middle lies in.
    """
    cut = part.left / FPS
    same = [
        (abs(_middle(a) - cut), i, j)
        for i, a in enumerate(words)
        if a.end * FPS > part.start  # few of all
        for j, b in enumerate(later)
        if a.text == b.text and a.start <= _middle(b) <= a.end and b.start <= _middle(a) <= b.end
    ]
    if same:
        _, i, j = min(same)
        return _one_by_one(words[: i + 1], later[j + 1 :])
    kept = [word for word in words if _middle(word) < cut]
    return _one_by_one(kept, [word for word in later if _middle(word) >= cut])


def _one_by_one(words: list[Word], later: list[Word]) -> list[Word]:
    """Both, where the first of the later words begins no sooner than the last before it ends."""
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
