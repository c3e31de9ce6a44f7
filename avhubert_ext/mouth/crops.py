"""Crop mouth regions while a video is decoded, in one pass and with bounded memory.

Smoothing needs the landmarks of the next few frames before a frame can be cropped, so the last few
frames are kept. The crops themselves are stored in a temporary file.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np

from avhubert_ext.mouth import align
from avhubert_ext.mouth.sheet import COLUMNS, small

IN_MEMORY = 64 * 2**20  # bytes; a larger clip stays in a file
CHUNK = 1000  # frames copied at once


class Crops:
    """Numbered mouth regions, uint8 [96, 96], in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as its arrays
        self._count = 0

    def add(self, crop: np.ndarray) -> int:
        """Store a crop and return its number."""
        self._file.write(crop.tobytes())
        self._count += 1
        return self._count - 1

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Return the crops with these numbers [T]: uint8 [T, 96, 96], memory-mapped if large."""
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
    """The most recent frames of a video, gray [H, W], by number."""

    def __init__(self) -> None:
        self._frames: deque[np.ndarray] = deque()
        self.end = 0

    def add(self, gray: np.ndarray) -> None:
        """Add the next frame."""
        self._frames.append(gray)
        self.end += 1

    def __getitem__(self, number: int) -> np.ndarray:
        return self._frames[number - self.end + len(self._frames)]

    def forget(self, before: int) -> None:
        """Drop the frames before this number."""
        while self._frames and self.end - len(self._frames) < before:
            self._frames.popleft()


class Reel:
    """The mouth of one tracked face, cropped as its landmarks arrive.

    Attributes:
        first: The number of its first frame.
        points: Smoothed landmarks [K, 2] of each frame cropped so far.
        transforms: Their transforms [2, 3].
        crops: The numbers of their crops.
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
        """Add the landmarks [K, 2] found in a frame; a gap before it is interpolated."""
        gap = number - self.first - len(self._found) + 1 if self._found else 1
        last = self._found[-1] if self._found else points
        self._found += [last + (points - last) * (step / gap) for step in range(1, gap + 1)]

    def crop(self, recent: Recent, crops: Crops, ended: bool) -> None:
        """Crop the frames that can be smoothed by now; all of them if the track has `ended`."""
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
    """Return the block size over which a frame is averaged before it is cropped.

    It changes only if the scale has changed a lot, as every change is visible as a flicker.

    Args:
        scale: Crop pixels per frame pixel.
        before: The block size of the previous frame, 0 if there is none.
    """
    if before and before - 0.5 < 1 / scale < before + 1.5:
        return before
    return max(1, int(1 / scale))


def sources(known: np.ndarray, owners: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose the crop to show in each frame: between frames of one track its own, else the nearest.

    Args:
        known: The numbers of the frames with a face, in order, [N].
        owners: The track of each of these, [N].
        frames: T, the number of frames.

    Returns:
        The track and the frame number of the crop, both [T].
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
        """Keep a small copy of the frame, if it is due."""
        if number % self._every:
            return
        self._kept[number] = small(frame)
        if len(self._kept) > 8 * COLUMNS:
            self._every *= 2
            self._kept = {t: k for t, k in self._kept.items() if t % self._every == 0}

    def nearest(self, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the kept frames nearest to these numbers, each once, with their numbers."""
        kept = np.array(list(self._kept))
        for t in sorted({int(kept[np.abs(kept - number).argmin()]) for number in numbers}):
            yield t, self._kept[t]


def gray_of(frame: np.ndarray) -> np.ndarray:
    """Convert RGB [H, W, 3] to gray [H, W]."""
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
