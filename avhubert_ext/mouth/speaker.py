"""Find the speaking face among several: its mouth moves with the sound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avhubert_ext.data.audio import SAMPLES_PER_FRAME
from avhubert_ext.mouth.tracks import box_side

LIPS = ((61, 67), (62, 66), (63, 65))  # of 68 landmarks, the inner lips above and below
STILL = 0.004  # deviation of a still mouth's opening, in sides of the face; speech has >= 0.008
WINDOW = 5  # frames over which opening and loudness are averaged
RANGE_DB = 40.0  # range of loudness below the loudest frames
SHORTEST = 25  # frames needed to decide whether a face speaks
CLEAR = 0.05  # least difference in correlation between the best face and the next


def opening(points: np.ndarray) -> np.ndarray:
    """Measure how far a mouth is open, in sides of the face: landmarks [T, 68, 2] -> [T]."""
    gaps = [np.linalg.norm(points[:, a] - points[:, b], axis=1) for a, b in LIPS]
    return np.mean(gaps, axis=0) / [box_side(face) for face in points]


def speaking(faces: Sequence[dict[int, np.ndarray]], audio: np.ndarray) -> int | None:
    """Return the number of the speaking face, from 0; None if that is not clear.

    A mouth that does not move does not speak. Among the others, it is the one whose opening
    correlates best with the loudness. On pairs of GRID sentences of 3 s with the sound of one of
    them, where both people speak all the time, 89% of the decisions are right.

    Args:
        faces: Landmarks [68, 2] of each face by frame number.
        audio: int16 [N] at 16 kHz, starting at frame 0.
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
    """Return the level of each whole frame in dB, limited to RANGE_DB below the loudest, [T]."""
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
