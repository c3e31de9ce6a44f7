"""When words are spoken: the best monotone path of a hypothesis through the frames of its clip."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from avhubert_ext.data.text import BLANK
from avhubert_ext.data.video import FPS
from avhubert_ext.decoding.recognition import Recognition

WORD_START = "\u2581"  # sentencepiece's mark of a subword that begins a word
LEAST_ATTENTION = 1e-4  # to a frame; less than that says nothing
SPREAD = 2  # frames; as far a subword reaches into the blanks around the peak that CTC gives it


@dataclass(frozen=True)
class Word:
    """start, end: seconds; confidence: 0 to 1, see `words_of`."""

    text: str
    start: float
    end: float
    confidence: float


def words_of(recognition: Recognition) -> list[Word]:
    """The words of a clip with their times from its beginning.

    A word begins with the first frame of its first subword and ends with the last one of its last:
    see `align`. Its confidence is the geometric mean of the probabilities that the decoder gave
    its subwords, each after those before it.
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
    return [word for word in confident if word.text]  # a mark alone is no word


def align(recognition: Recognition) -> np.ndarray:
    """The frames of each subword, int64 [U, 2]: the first, and the one after the last.

    By CTC's log probabilities where there are some, else by the decoder's attention. Both are a
    path through a chain in which every subword has a frame or more, with frames of none before,
    between and after them.
    """
    if recognition.ctc is not None:
        return _by_ctc(recognition.ctc, np.array(recognition.tokens, dtype=np.int64))
    begins = [piece.startswith(WORD_START) for piece in recognition.pieces]
    return _by_attention(recognition.attention, np.array(begins, dtype=bool))


def _by_attention(attention: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """As `align`; attention: [U, T]; begins: bool [U], subwords that begin a word.

    A subword's score at a frame is the log of its attention; that of no word, which may be before
    and after words, what a frame would get were all alike: the log of 1 / T.
    """
    count, frames = attention.shape
    scores = np.log(np.maximum(attention, LEAST_ATTENTION))
    none = np.full((count + 1, frames), -np.log(frames))
    none[1:-1][~begins[1:]] = -np.inf
    return best_path(scores, none, np.zeros(count, dtype=bool))


def _by_ctc(log_probs: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """As `align`: CTC's forced alignment; log_probs: [T, V]; tokens: [U].

    CTC gives most frames to the blank, and a subword its peak alone. So a subword is given the
    blanks next to its peak, up to SPREAD frames, and shares what lies between two of them evenly.
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
    """The frames of U units in order, int64 [U, 2]: those that give the greatest sum.

    scores: [U, T], of a unit at a frame; none: [U + 1, T], of no unit, before the first, between
    two and after the last, -inf where it cannot be. pause: bool [U], after which unit there must be
    a frame without. If there are too few frames for that, units share them evenly.
    """
    count, frames = scores.shape
    # States: none, unit 0, none, unit 1, ..., none. A unit may follow another directly.
    states = np.empty((2 * count + 1, frames))
    states[0::2], states[1::2] = none, scores
    direct = np.zeros(2 * count + 1, dtype=bool)
    direct[3::2] = ~pause[:-1]
    total = np.full(2 * count + 1, -np.inf)
    total[:2] = states[:2, 0]
    steps = np.zeros(states.shape, dtype=np.int64)  # how many states a frame is beyond the last
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
