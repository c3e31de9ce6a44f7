"""Quality of a mouth region: one set of thresholds and messages for all callers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avhubert_ext.data.video import FPS
from avhubert_ext.mouth import align

# A clip beyond the first threshold of a pair gets a warning; beyond the second, it is rejected. In
# 40 videos of the GRID corpus, no frame is without the face, landmarks turn by at most 2.2 degrees
# from frame to frame, and scores are 0.89 or more; 0.7 or more in poor light, with noise, at 25
# pixels, or after strong compression. Other objects detected as a face score 0.5 to 0.79.
MISSING = (0.1, 0.9)  # share of the frames without the face
SCORE = (0.8, 0.7)  # of the detector
JUMPING = (0.02, 0.2)  # share of the frames where the landmarks jump
SCALE = (2.0, 5.0)  # crop pixels per pixel of the video; 5 means a face of 25 pixels
OUTSIDE = (0.1, 0.5)  # share of the crop's pixels outside the video
FEWEST = FPS  # frames with the face; fewer are rejected unless they are half of a short video
TURN, GROWTH = 10.0, 0.2  # degrees, and relative change in size, that count as a jump per frame


@dataclass(frozen=True)
class Quality:
    """How far a clip can be trusted.

    A ready-made mouth region has no face to track: scale 1, faces 0, no missing frames.

    Attributes:
        frames: T, the number of frames.
        missing: Frames without the face.
        faces: The number of persons in the video.
        scale: Median of crop pixels per pixel of the video. Above 2, the video has too little
            detail.
        motion: Mean motion of the face from frame to frame, in crop pixels.
        outside: The share of crop pixels outside the video.
        first: Seconds until the face is first seen.
        score: Median confidence of the detector, 0 to 1; None if unknown.
        jumping: The share of frames where the landmarks turn or grow faster than a face can.
        damaged: Frames of the file that could not be decoded completely.
    """

    frames: int
    missing: int
    faces: int
    scale: float
    motion: float
    outside: float
    first: float = 0.0
    score: float | None = None
    jumping: float = 0.0
    damaged: int = 0

    @property
    def refusal(self) -> str | None:
        """Why the mouth region cannot be used, in a few words; None if it can be used."""
        return next(iter(self._beyond(1)), None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know about the clip, a few words each; empty for a good clip."""
        damaged = [f"damaged frames in the video: {self.damaged}"] if self.damaged else []
        return (*self._beyond(0), *damaged)

    def _beyond(self, level: int) -> list[str]:
        """Describe what is beyond the thresholds of warnings (0) or rejection (1)."""
        found = []
        seen = self.frames - self.missing
        too_few = level == 1 and seen < min(FEWEST, self.frames / 2)
        if self.missing > MISSING[level] * self.frames or too_few:
            where = f", first seen at {self.first:.1f} s" if self.first >= 1 / FPS else ""
            found.append(f"no face in {self.missing} of {self.frames} frames{where}")
        if self.score is not None and self.score < SCORE[level]:
            found.append(f"this may not be a face (the score of the detector is {self.score})")
        if self.jumping > JUMPING[level]:
            found.append(f"the landmarks of the face jump in {self.jumping:.0%} of the frames")
        if self.scale > SCALE[level]:
            found.append(f"the face is small (the mouth is enlarged {self.scale:.1f} times)")
        if self.outside > OUTSIDE[level]:
            found.append(f"{self.outside:.0%} of the mouth region is outside the frame")
        return found


def measure(
    points: np.ndarray,
    transforms: np.ndarray,
    seen: np.ndarray,
    shape: tuple[int, ...],
    *,
    faces: int,
    scores: Sequence[float] = (),
    jumping: float = 0.0,
    damaged: int = 0,
) -> Quality:
    """Measure the quality of a mouth region of T frames.

    Args:
        points: Smoothed landmarks [T, K, 2].
        transforms: [T, 2, 3], see `mouth_transforms`.
        seen: bool [T], where the face was found.
        shape: Shape of the frames of the video.
        faces: The number of persons in the video.
        scores: Scores of the detector.
        jumping: See `Quality`.
        damaged: See `Quality`.
    """
    return Quality(
        frames=len(seen),
        missing=int((~seen).sum()),
        faces=faces,
        scale=round(float(np.median(align.scales(transforms)[seen])), 3),
        motion=round(_motion(points, transforms), 3),
        outside=round(align.share_outside(shape, transforms[seen]), 4),
        first=float(seen.argmax()) / FPS,
        score=round(float(np.median(scores)), 2) if len(scores) else None,
        jumping=round(jumping, 3),
        damaged=damaged,
    )


def jumps(points: np.ndarray) -> np.ndarray:
    """Find frames after which the landmarks turn or grow faster than a face can.

    Args:
        points: Landmarks of successive frames, not smoothed, [T, K, 2].

    Returns:
        bool [T - 1].
    """
    scheme = align.scheme_of(points)
    placed = align.similarity(points[:, scheme.stable], scheme.reference[list(scheme.stable)])
    turn = np.diff(np.unwrap(np.arctan2(placed[:, 1, 0], placed[:, 0, 0])))
    growth = np.diff(np.log(align.scales(placed)))
    return (np.abs(np.rad2deg(turn)) > TURN) | (np.abs(growth) > GROWTH)


def _motion(points: np.ndarray, transforms: np.ndarray) -> float:
    """Return the mean motion of a face from frame to frame, in crop pixels."""
    steps = np.linalg.norm(np.diff(points.mean(axis=1), axis=0), axis=1)
    return float((steps * align.scales(transforms)[1:]).mean()) if len(steps) else 0.0
