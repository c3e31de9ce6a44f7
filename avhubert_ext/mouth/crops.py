"""Mouth regions cut out while a video is decoded, once, with bounded memory.

A frame can be cropped when the landmarks of the frames after it that smoothing needs are known, so
the last few frames are kept. The crops themselves lie in a temporary file.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np

from avhubert_ext.mouth import align
from avhubert_ext.mouth.sheet import COLUMNS, small

IN_MEMORY = 64 * 2**20  # bytes of a clip; a longer one stays in a file
CHUNK = 1000  # frames moved at once


class Crops:
    """Mouth regions uint8 [96, 96], numbered, in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as its arrays
        self._count = 0

    def add(self, crop: np.ndarray) -> int:
        """Keep a crop; its number."""
        self._file.write(crop.tobytes())
        self._count += 1
        return self._count - 1

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Crops by their numbers [T]: uint8 [T, 96, 96], of a long clip mapped from a file."""
        self._file.flush()
        kept = np.memmap(self._file, np.uint8, "r", shape=(self._count, align.SIZE, align.SIZE))
        shape = (len(numbers), align.SIZE, align.SIZE)
        if len(numbers) * align.SIZE**2 <= IN_MEMORY:
            return kept[numbers]
        with tempfile.TemporaryFile() as file:
            taken = np.memmap(file, np.uint8, "w+", shape=shape)
        for first in range(0, len(numbers), CHUNK):
            taken[first : first + CHUNK] = kept[numbers[first : first + CHUNK]]
        return taken


class Recent:
    """The last frames of a video, gray [H, W], by their numbers."""

    def __init__(self) -> None:
        self._frames: deque[np.ndarray] = deque()
        self.end = 0

    def add(self, gray: np.ndarray) -> None:
        self._frames.append(gray)
        self.end += 1

    def __getitem__(self, number: int) -> np.ndarray:
        return self._frames[number - self.end + len(self._frames)]

    def forget(self, before: int) -> None:
        """Those before a number are not needed any more."""
        while self._frames and self.end - len(self._frames) < before:
            self._frames.popleft()


class Reel:
    """The mouth of one face, cropped while the face is followed.

    first: number of the frame that it begins with. points: smoothed landmarks [K, 2], transforms
    [2, 3] and numbers of crops, for each frame cropped so far.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.points: list[np.ndarray] = []
        self.transforms: list[np.ndarray] = []
        self.crops: list[int] = []
        self._found: list[np.ndarray] = []  # landmarks of each frame, gaps filled
        self._shrink = 0

    @property
    def due(self) -> int:
        """The number of the next frame to crop."""
        return self.first + len(self.crops)

    def add(self, number: int, points: np.ndarray) -> None:
        """The landmarks [K, 2] found in a frame; those since the frame before are interpolated."""
        gap = number - self.first - len(self._found) + 1 if self._found else 1
        last = self._found[-1] if self._found else points
        self._found += [last + (points - last) * (step / gap) for step in range(1, gap + 1)]

    def crop(self, recent: Recent, crops: Crops, ended: bool) -> None:
        """Crop the frames that can be smoothed by now; all up to the last one found if `ended`."""
        for t in range(len(self.crops), len(self._found) - (0 if ended else align.HALF_WINDOW)):
            reach = min(t, len(self._found) - 1 - t, align.HALF_WINDOW)
            points = align.smooth(np.stack(self._found[t - reach : t + reach + 1]))[reach]
            (transform,) = align.mouth_transforms(points[None])
            (scale,) = align.scales(transform[None])
            self._shrink = shrink_of(scale, self._shrink)
            crop = align.warp(recent[self.first + t], transform, self._shrink)
            self.points.append(points)
            self.transforms.append(transform)
            self.crops.append(crops.add(crop))


def shrink_of(scale: float, before: int) -> int:
    """By how many pixels each way a frame is averaged for a crop of `scale`; 0 before the first.

    It changes only where the scale has changed by far: a change shows as a flicker.
    """
    if before and before - 0.5 < 1 / scale < before + 1.5:
        return before
    return max(1, int(1 / scale))


def sources(known: np.ndarray, owners: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of so many frames the track and the frame number whose crop is shown, both [T].

    known, owners: the numbers of the frames with a face, in order, and the track of each, [N].
    Between two frames of one track that is the frame itself; elsewhere the nearest with a face.
    """
    times = np.arange(frames)
    after = np.searchsorted(known, times).clip(max=len(known) - 1)
    before = (np.searchsorted(known, times, side="right") - 1).clip(min=0)
    within = (owners[before] == owners[after]) & (known[before] <= times) & (times <= known[after])
    nearer = np.where(times - known[before] <= known[after] - times, before, after)
    return owners[nearer], np.where(within, times, known[nearer])


class Thumbnails:
    """Small copies of some frames of a video of unknown length, evenly spaced."""

    def __init__(self) -> None:
        self._every = 1
        self._kept: dict[int, np.ndarray] = {}

    def see(self, number: int, frame: np.ndarray) -> None:
        if number % self._every:
            return
        self._kept[number] = small(frame)
        if len(self._kept) > 8 * COLUMNS:
            self._every *= 2
            self._kept = {t: k for t, k in self._kept.items() if t % self._every == 0}

    def nearest(self, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The kept frames nearest to these, each once, with their numbers."""
        kept = np.array(list(self._kept))
        for t in sorted({int(kept[np.abs(kept - number).argmin()]) for number in numbers}):
            yield t, self._kept[t]


def gray_of(frame: np.ndarray) -> np.ndarray:
    """RGB [H, W, 3] -> gray [H, W]."""
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
