"""The mouth regions of a video file, ready for the models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from avhubert_ext.errors import InputError
from avhubert_ext.mouth import align
from avhubert_ext.mouth.landmark_files import read_landmarks
from avhubert_ext.mouth.landmarks import open_landmarker
from avhubert_ext.mouth.media import LIMITS, Limits, soundtrack, video_frames, video_size
from avhubert_ext.mouth.sheet import outlined, sample_times
from avhubert_ext.mouth.tracks import Person, Track, follow_faces

Faces = Literal["largest", "all"] | int
Progress = Callable[[int, int], None]
SCALES = (0.01, 100.0)  # crop pixels a pixel of the video; beyond, that was no face


class NoFaceError(InputError):
    """A video in which no face was found."""


@dataclass(frozen=True)
class Quality:
    """How far a clip can be trusted.

    frames: T; missing: those without the face, interpolated; faces: persons in the video;
    scale: crop pixels a pixel of the video, the median: over 2 the video has no detail to show;
    motion: of the face, crop pixels from frame to frame, the mean; outside: the share of crop
    pixels beyond the video's edge. A ready-made clip has no face to follow: scale 1, faces 0.
    """

    frames: int
    missing: int
    faces: int
    scale: float
    motion: float
    outside: float


@dataclass(frozen=True)
class MouthClip:
    """A face's mouth.

    face: from 1, the largest first; video: uint8 [T, 96, 96] at 25 frames a second; audio: int16
    [T * 640] at 16 kHz, or None; points: smoothed landmarks float [T, K, 2] in the video's pixels,
    and transforms [T, 2, 3] from those to the crop's, both None for a ready-made clip; pictures:
    small frames that show where the mouth was found, for `write_sheet`.
    """

    face: int
    video: np.ndarray
    audio: np.ndarray | None
    quality: Quality
    points: np.ndarray | None = None
    transforms: np.ndarray | None = None
    pictures: list[np.ndarray] = field(default_factory=list)


def mouth_clips(
    path: Path,
    faces: Faces = "largest",
    *,
    landmarks: Path | None = None,
    landmark_model: Path | None = None,
    limits: Limits = LIMITS,
    progress: Progress | None = None,
) -> list[MouthClip]:
    """The mouth region of the largest face of a video, of the N-th largest, or of all.

    A video of 96x96 pixels is a mouth region already and passes through. landmarks: a file of
    AV-HuBERT or Auto-AVSR instead of looking for faces; landmark_model: see `open_landmarker`.
    progress: called with the frames done and those to do in both passes, 0 while not known.
    Raises InputError for a file that is no video, damaged, or without such a face.
    """
    path = Path(path)
    count = _Counter(progress)
    if video_size(path) == (align.SIZE, align.SIZE):
        _choose(path, 1, faces)
        return [_ready_made(path, limits, count)]
    frames = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal frames
        for frame in count(video_frames(path, limits)):
            frames += 1
            yield frame

    if landmarks is None:
        with open_landmarker(landmark_model) as landmarker:
            persons = follow_faces(counted(), landmarker)
    else:
        frames = sum(1 for _ in counted())
        persons = [Person([Track(read_landmarks(landmarks, frames))])]
    chosen = _choose(path, len(persons), faces)
    if any(persons[n].upside_down for n in chosen):
        raise InputError(f"{path}: the face is upside down; turn the video by 180 degrees")
    count.total = 2 * frames
    points = [_path(persons[n], frames) for n in chosen]
    transforms = [align.mouth_transforms(p) for p in points]
    if not all(((s > SCALES[0]) & (s < SCALES[1])).all() for s in map(align.scales, transforms)):
        raise InputError(f"{landmarks or path}: no face's landmarks, in one spot or far apart")
    videos, pictures, shape = _crops(count(video_frames(path, limits)), points, transforms)
    audio = soundtrack(path, frames, limits)
    return [
        MouthClip(
            face=n + 1,
            video=videos[k],
            audio=audio,
            quality=Quality(
                frames=frames,
                missing=frames - persons[n].frames,
                faces=len(persons),
                scale=round(float(np.median(align.scales(transforms[k]))), 3),
                motion=round(_motion(points[k], transforms[k]), 3),
                outside=round(align.share_outside(shape, transforms[k]), 4),
            ),
            points=points[k],
            transforms=transforms[k],
            pictures=pictures[k],
        )
        for k, n in enumerate(chosen)
    ]


class _Counter:
    """Hands frames on and tells how many have passed."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._done = 0
        self.total = 0

    def __call__(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for frame in frames:
            yield frame
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self.total)


def _ready_made(path: Path, limits: Limits, count: _Counter) -> MouthClip:
    video = np.stack([_gray(frame) for frame in count(video_frames(path, limits))])
    quality = Quality(len(video), missing=0, faces=0, scale=1.0, motion=0.0, outside=0.0)
    return MouthClip(1, video, soundtrack(path, len(video), limits), quality)


def _choose(path: Path, persons: int, faces: Faces) -> list[int]:
    """The numbers of the wanted persons among so many, from 0."""
    if not persons:
        raise NoFaceError(f"{path}: no face found in it; give a video with a visible face")
    if faces == "all":
        return list(range(persons))
    number = 1 if faces == "largest" else int(faces)
    if not 1 <= number <= persons:
        raise InputError(f"{path}: no face {number}, {persons} found; the largest is 1")
    return [number - 1]


def _path(person: Person, frames: int) -> np.ndarray:
    """Smoothed landmarks [frames, K, 2]: each track filled up and smoothed on its own."""
    tracks = sorted(person.tracks, key=lambda track: track.first)
    changes = [(a.last + b.first + 1) // 2 for a, b in pairwise(tracks)]
    parts = []
    for track, (start, end) in zip(tracks, pairwise([0, *changes, frames]), strict=True):
        points = {t - start: points for t, points in track.points.items()}
        parts.append(align.smooth(align.fill_gaps(points, end - start)))
    return np.concatenate(parts)


def _crops(
    frames: Iterator[np.ndarray], points: list[np.ndarray], transforms: list[np.ndarray]
) -> tuple[np.ndarray, list[list[np.ndarray]], tuple[int, ...]]:
    """Crops uint8 [persons, T, 96, 96], pictures, and the shape of the frames."""
    # One factor a clip: changing it in between would show as a flicker.
    shrink = [max(1, int(1 / np.median(align.scales(t)))) for t in transforms]
    persons, total = len(transforms), len(transforms[0])
    crops = np.zeros((persons, total, align.SIZE, align.SIZE), np.uint8)
    pictures: list[list[np.ndarray]] = [[] for _ in range(persons)]
    shown = set(sample_times(total))
    for t, frame in enumerate(frames):
        gray = _gray(frame)
        for k in range(persons):
            crops[k, t] = align.warp(gray, transforms[k][t], shrink[k])
            if t in shown:
                pictures[k].append(outlined(frame, points[k][t], transforms[k][t]))
    return crops, pictures, frame.shape


def _gray(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def _motion(points: np.ndarray, transforms: np.ndarray) -> float:
    """Mean movement of a face from frame to frame, in crop pixels."""
    steps = np.linalg.norm(np.diff(points.mean(axis=1), axis=0), axis=1)
    return float((steps * align.scales(transforms)[1:]).mean()) if len(steps) else 0.0
