"""Word times: the best monotonic alignment of a hypothesis to the frames of its clip."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from avhubert_ext.data.text import BLANK
from avhubert_ext.data.video import FPS
from avhubert_ext.decoding.recognition import Recognition

WORD_START = "\u2581"  # sentencepiece's mark for a subword that begins a word
LEAST_ATTENTION = 1e-4  # per frame; lower values are treated as this one
SPREAD = 2  # frames by which a subword extends into the blanks around its CTC peak


@dataclass(frozen=True)
class Word:
    """A recognized word.

    Attributes:
        text: The word.
        start: Seconds from the beginning of the clip.
        end: Seconds from the beginning of the clip.
        confidence: 0 to 1: the geometric mean of the probabilities that the decoder gave the
            word's subwords, each given those before it.
    """

    text: str
    start: float
    end: float
    confidence: float


def words_of(recognition: Recognition) -> list[Word]:
    """Return the words of a clip with their times and confidence.

    A word begins with the first frame of its first subword and ends with the last frame of its
    last subword, see `align`.
    """
    words: list[Word] = []
    log_probs: list[list[float]] = []
    for piece, log_prob, (first, after) in zip(
        recognition.pieces, recognition.log_probs, align(recognition), strict=True
    ):
        text, end = piece.removeprefix(WORD_START), float(after) / FPS
        if piece.startswith(WORD_START) or not words:
            words.append(Word(text, float(first) / FPS, end, 0.0))
            log_probs.append([])
        else:
            words[-1] = replace(words[-1], text=words[-1].text + text, end=end)
        log_probs[-1].append(float(log_prob))
    confident = [
        replace(word, confidence=float(np.exp(np.mean(values))))
        for word, values in zip(words, log_probs, strict=True)
    ]
    return [word for word in confident if word.text]  # a lone mark is not a word


def align(recognition: Recognition) -> np.ndarray:
    """Align each subword to frames.

    Uses CTC's log probabilities if the model has them, else the decoder's attention. Both find the
    best path through a chain in which every subword takes one frame or more, with frames of no
    subword allowed before, between and after.

    Returns:
        int64 [U, 2]: the first frame of each subword, and the one after its last.
    """
    if recognition.ctc is not None:
        return _by_ctc(recognition.ctc, np.array(recognition.tokens, dtype=np.int64))
    begins = [piece.startswith(WORD_START) for piece in recognition.pieces]
    if recognition.attention is None:
        raise ValueError("a recognition has either attention or ctc")
    return _by_attention(recognition.attention, np.array(begins, dtype=bool))


def _by_attention(attention: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Align by attention [U, T]; begins: bool [U], which subwords begin a word.

    A subword's score at a frame is the log of its attention. Frames of no word are allowed before
    and after words and score log(1 / T), as if the attention were uniform.
    """
    count, frames = attention.shape
    scores = np.log(np.maximum(attention, LEAST_ATTENTION))
    none = np.full((count + 1, frames), -np.log(frames))
    none[1:-1][~begins[1:]] = -np.inf
    return best_path(scores, none, np.zeros(count, dtype=bool))


def _by_ctc(log_probs: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Align by CTC's forced alignment; log_probs: [T, V]; tokens: [U].

    CTC assigns most frames to the blank and only a peak to each subword. A subword is therefore
    extended into the blanks around its peak by up to SPREAD frames; two neighbors share a shorter
    gap evenly.
    """
    count, frames = len(tokens), len(log_probs)
    blank = np.tile(log_probs[:, BLANK], (count + 1, 1))
    again = np.append(tokens[:-1] == tokens[1:], False)
    spans = best_path(log_probs[:, tokens].T, blank, again)
    first, after = spans.T
    between = first[1:] - after[:-1]
    reach = np.minimum(between // 2, SPREAD)
    after = after + np.append(reach, max(0, min(frames - after[-1], SPREAD)) if count else [])
    before = np.minimum(between - between // 2, SPREAD)
    first = first - np.append([min(first[0], SPREAD)] if count else [], before)
    return np.stack([first, after], axis=1).astype(np.int64)


def best_path(scores: np.ndarray, none: np.ndarray, pause: np.ndarray) -> np.ndarray:
    """Find the alignment of U units to T frames with the greatest sum of scores (Viterbi).

    Args:
        scores: Score of each unit at each frame, [U, T].
        none: Score of no unit at each frame, [U + 1, T]: before the first unit, between two, and
            after the last; -inf where that is not allowed.
        pause: bool [U], units that must be followed by a frame of no unit.

    Returns:
        int64 [U, 2]: the first frame of each unit, and the one after its last. If there are too
        few frames, the units share them evenly.
    """
    count, frames = scores.shape
    # States: none, unit 0, none, unit 1, ..., none. A unit may directly follow another.
    states = np.empty((2 * count + 1, frames))
    states[0::2], states[1::2] = none, scores
    direct = np.zeros(2 * count + 1, dtype=bool)
    direct[3::2] = ~pause[:-1]
    total = np.full(2 * count + 1, -np.inf)
    total[:2] = states[:2, 0]
    steps = np.zeros(states.shape, dtype=np.int64)  # states advanced since the previous frame
    impossible = np.full(2, -np.inf)
    for frame in range(1, frames):
        before = np.concatenate([impossible, total])
        candidates = np.stack([total, before[1:-1], np.where(direct, before[:-2], -np.inf)])
        steps[:, frame] = candidates.argmax(axis=0)
        total = candidates.max(axis=0) + states[:, frame]
    last = len(total) - 2 + int(total[-1] > total[-2]) if count else 0
    if not np.isfinite(total[last]):
        edges = np.linspace(0, frames, count + 1).astype(np.int64)
        return np.stack([edges[:-1], edges[1:]], axis=1)
    path = np.empty(frames, dtype=np.int64)
    for frame in range(frames - 1, -1, -1):
        path[frame] = last
        last -= steps[last, frame]
    units = np.arange(1, 2 * count, 2)
    return np.stack([np.searchsorted(path, units), np.searchsorted(path, units, "right")], axis=1)
