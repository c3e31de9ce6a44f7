"""How far a mouth region can be trusted: one set of thresholds and words for all that use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avhubert_ext.data.video import FPS
from avhubert_ext.mouth import align

# A clip beyond the first of each pair gets a warning, beyond the second it is refused. Measured on
# 40 videos of the GRID corpus: no frame without the face, landmarks that turn by 2.2 degrees from
# frame to frame at most, scores of 0.89 or more, of 0.7 or more in poor light, noise, at 25 pixels
# or after strong compression. Things that the detector takes for a face score 0.5 to 0.79.
MISSING = (0.1, 0.9)  # share of the frames without the face
SCORE = (0.8, 0.7)  # of the detector
JUMPING = (0.02, 0.2)  # share of the frames where the landmarks jump
SCALE = (2.0, 5.0)  # crop pixels a pixel of the video; 5: a face of 25 pixels
OUTSIDE = (0.1, 0.5)  # share of the crop's pixels beyond the video's edge
FEWEST = FPS  # frames with the face; fewer are refused unless they are most of a short video
TURN, GROWTH = 10.0, 0.2  # degrees and share of the size in one frame: that is a jump


@dataclass(frozen=True)
class Quality:
    """How far a clip can be trusted.

    frames: T; missing: those without the face; faces: persons in the video; scale: crop pixels a
    pixel of the video, the median: over 2 the video has no detail to show; motion: of the face,
    crop pixels from frame to frame, the mean; outside: the share of crop pixels beyond the video's
    edge; first: seconds from the beginning until the face is seen; score: the detector's, 0 to 1,
    the median, None if unknown; jumping: the share of frames where the landmarks turn or grow as
    no face does; damaged: frames of the file that did not decode whole. A ready-made clip has no
    face to follow: scale 1, faces 0, as if it were in all frames.
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
        """Why the mouth region cannot be used, in a few words; None if it can."""
        return next(iter(self._beyond(1)), None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know of the clip, each a few words; empty for a good one."""
        damaged = [f"damaged frames in the video: {self.damaged}"] if self.damaged else []
        return (*self._beyond(0), *damaged)

    def _beyond(self, level: int) -> list[str]:
        """What lies beyond the thresholds of warnings, 0, or of refusal, 1."""
        found = []
        seen = self.frames - self.missing
        too_few = level == 1 and seen < min(FEWEST, self.frames / 2)
        if self.missing > MISSING[level] * self.frames or too_few:
            where = f", first seen at {self.first:.1f} s" if self.first >= 1 / FPS else ""
            found.append(f"no face in {self.missing} of {self.frames} frames{where}")
        if self.score is not None and self.score < SCORE[level]:
            found.append(f"what was found may not be a face (the detector's score is {self.score})")
        if self.jumping > JUMPING[level]:
            found.append(f"the landmarks of the face jump in {self.jumping:.0%} of the frames")
        if self.scale > SCALE[level]:
            found.append(f"the face is small (the mouth is enlarged {self.scale:.1f} times)")
        if self.outside > OUTSIDE[level]:
            found.append(f"{self.outside:.0%} of the mouth region lie outside the picture")
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
    """The quality of a mouth region of T frames.

    points: smoothed landmarks [T, K, 2]; transforms: [T, 2, 3], see `mouth_transforms`; seen: bool
    [T], where the face was found; shape: of the video's frames; scores: of the detector;
    jumping: see `Quality`.
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
    """Whether a face turns or grows as none does to the next frame: landmarks [T, K, 2] -> [T-1].

    By landmarks as they were found, not smoothed, of successive frames.
    """
    scheme = align.scheme_of(points)
    placed = align.similarity(points[:, scheme.stable], scheme.reference[list(scheme.stable)])
    turn = np.diff(np.unwrap(np.arctan2(placed[:, 1, 0], placed[:, 0, 0])))
    growth = np.diff(np.log(align.scales(placed)))
    return (np.abs(np.rad2deg(turn)) > TURN) | (np.abs(growth) > GROWTH)


def _motion(points: np.ndarray, transforms: np.ndarray) -> float:
    """Mean movement of a face from frame to frame, in crop pixels."""
    steps = np.linalg.norm(np.diff(points.mean(axis=1), axis=0), axis=1)
    return float((steps * align.scales(transforms)[1:]).mean()) if len(steps) else 0.0
