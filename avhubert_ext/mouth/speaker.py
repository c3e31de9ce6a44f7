"""Which of several faces speaks: the one whose mouth moves with the sound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avhubert_ext.data.audio import SAMPLES_PER_FRAME
from avhubert_ext.mouth.tracks import box_side

LIPS = ((61, 67), (62, 66), (63, 65))  # of 68 landmarks, the inner lips above and below
STILL = 0.004  # of a face: the spread of a mouth's opening; 0.008 or more where somebody speaks
WINDOW = 5  # frames that opening and loudness are averaged over
RANGE_DB = 40.0  # under the loudest, what counts as loudness
SHORTEST = 25  # frames; a shorter look at a face does not show whether it speaks
CLEAR = 0.05  # of correlation between the best and the next


def opening(points: np.ndarray) -> np.ndarray:
    """How far a mouth is open, in sides of the face: landmarks [T, 68, 2] -> [T]."""
    gaps = [np.linalg.norm(points[:, a] - points[:, b], axis=1) for a, b in LIPS]
    return np.mean(gaps, axis=0) / [box_side(face) for face in points]


def speaking(faces: Sequence[dict[int, np.ndarray]], audio: np.ndarray) -> int | None:
    """The number, from 0, of the face that speaks; None where that is not clear.

    faces: of each its landmarks [68, 2] by frame number; audio: int16 [N] at 16 kHz, from frame 0.
    A mouth that keeps still does not speak. Of others the one whose opening changes most as the
    loudness does: measured on pairs of GRID's sentences, with the sound of one, that is right for
    89%, though both speak at the same time for 3 s.
    """
    loud = _loudness(audio)
    scores = {}
    for number, face in enumerate(faces):
        times = np.array([t for t in face if t < len(loud)], dtype=int)
        if len(times) < SHORTEST:
            continue
        opened = _smooth(opening(np.stack([face[t] for t in times])))
        if opened.std() >= STILL:
            scores[number] = _correlation(np.gradient(opened), np.gradient(_smooth(loud[times])))
    ranked = sorted(scores, key=scores.__getitem__, reverse=True)
    if not ranked or (len(ranked) > 1 and scores[ranked[0]] - scores[ranked[1]] < CLEAR):
        return None
    return ranked[0]


def _loudness(audio: np.ndarray) -> np.ndarray:
    """dB of each whole frame, without what is far below the loudest, [T]."""
    frames = audio[: len(audio) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME]
    power = np.square(frames.astype(np.float32).reshape(-1, SAMPLES_PER_FRAME)).mean(axis=1)
    level = 10 * np.log10(np.maximum(power, 1.0))
    return np.maximum(level, np.percentile(level, 95) - RANGE_DB) if len(level) else level


def _smooth(values: np.ndarray) -> np.ndarray:
    padded = np.pad(values, WINDOW // 2, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW).mean(axis=1)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a @ b) / np.sqrt((a @ a) * (b @ b) + 1e-12))
