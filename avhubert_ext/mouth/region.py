"""Recognize videos that are already a mouth region, unlike small videos of a whole face."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import cv2
import numpy as np

from avhubert_ext.mouth.align import SIZE, misfit
from avhubert_ext.mouth.crops import gray_of
from avhubert_ext.mouth.landmarks import Landmarker
from avhubert_ext.mouth.quality import SCORE
from avhubert_ext.mouth.tracks import UPRIGHT

SIDES = (80, 200)  # pixels of square videos that may be mouth regions
LOOKS = 7  # frames that are searched for a whole face
SECONDS = 10  # length of the part of a video that is searched
LIPS = 1.5  # least ratio of the motion in the middle of a mouth region to that at its border
GRID = 24  # squares in each direction


def could_be_mouth(size: tuple[int, int]) -> bool:
    """Return whether a video of (width, height) has the shape and size of a mouth region."""
    return size[0] == size[1] and SIDES[0] <= size[0] <= SIDES[1]


def is_mouth(frames: Iterable[np.ndarray], landmarker: Landmarker) -> bool:
    """Return whether a small square video shows a mouth and not a whole face.

    In a mouth region the lips move in the middle: 1.8 to 3.9 times as much as the border in GRID.
    The detector scores whole faces 0.86 or more in small videos of GRID's speakers, but their
    mouth regions 0.67 or less.

    Args:
        frames: RGB uint8 [H, W, 3]; only the first seconds are used.
        landmarker: Detects whole faces.
    """
    looked = list(islice(frames, SECONDS * 25))
    if not lips_move(np.stack([gray_of(frame) for frame in looked])):
        return False
    shown = [looked[int(t)] for t in np.linspace(0, len(looked) - 1, LOOKS)]
    return not any(_is_face(frame, landmarker) for frame in shown)


def lips_move(video: np.ndarray) -> bool:
    """Return whether the middle of uint8 [T, H, W] moves more than its sides and upper border."""
    small = [cv2.resize(frame, (GRID, GRID), interpolation=cv2.INTER_AREA) for frame in video]
    if len(small) < 2:
        return False
    change = np.abs(np.diff(np.stack(small).astype(np.float32), axis=0)).mean(axis=0)
    border = np.concatenate([change[:5].ravel(), change[:, :4].ravel(), change[:, -4:].ravel()])
    return bool(change[9:18, 7:17].mean() > LIPS * border.mean() + 1e-3)


def _is_face(frame: np.ndarray, landmarker: Landmarker) -> bool:
    score = landmarker.score(frame)
    if score is not None:
        return score >= SCORE[1]
    return any(misfit(points) < UPRIGHT for points in landmarker.faces(frame))


def scaled(frame: np.ndarray) -> np.ndarray:
    """Scale a nearly square mouth region, gray [H, W], to uint8 [96, 96]."""
    if frame.shape == (SIZE, SIZE):
        return frame
    kind = cv2.INTER_AREA if min(frame.shape) > SIZE else cv2.INTER_CUBIC
    return cv2.resize(frame, (SIZE, SIZE), interpolation=kind)
