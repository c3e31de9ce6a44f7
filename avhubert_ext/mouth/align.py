"""Align faces by their landmarks and crop the mouth region in 96x96 pixels.

The recipe is that of AV-HuBERT and Auto-AVSR, whose models expect its scale and position: landmarks
smoothed over 13 frames, a similarity transform of points that speech does not move onto a mean face
in 256x256 pixels, and a crop of 96x96 pixels around the center of the mouth points. Three changes
make the crop steadier: the transform minimizes the mean of squares, not their median; the window is
not rounded to whole pixels (on a moving portrait, the corners of the crop move by 0.31 instead of
0.64 pixels from frame to frame); and a frame is first averaged down if its face is more than twice
as large as the mean face.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from avhubert_ext.errors import InputError

SIZE = 96  # pixels of the mouth region
HALF_WINDOW = 6  # frames on either side that smoothing averages

# The mean face of the LRW recipe (20words_mean_face.npy, Imperial College London, Apache-2.0):
# 68 points in iBUG's order, in an image of 256x256.
MEAN_FACE = np.array([
    [70.92, 97.14], [72.63, 114.90], [75.99, 131.07], [79.27, 146.21], [83.61, 163.26],
    [91.33, 177.45], [100.27, 187.09], [112.12, 196.00], [130.74, 200.53], [149.86, 195.31],
    [163.10, 186.44], [173.65, 176.57], [182.44, 162.28], [187.17, 145.09], [190.23, 129.72],
    [193.02, 113.46], [194.44, 95.58], [81.33, 80.80], [87.76, 75.28], [96.23, 73.84],
    [104.56, 74.74], [112.23, 76.98], [144.50, 76.42], [152.35, 73.83], [161.13, 72.64],
    [170.59, 73.85], [178.21, 79.44], [128.73, 95.36], [128.49, 106.92], [128.24, 118.27],
    [128.27, 127.70], [118.76, 135.19], [122.96, 136.15], [128.87, 137.30], [134.94, 136.00],
    [139.48, 134.88], [92.52, 94.37], [97.59, 90.96], [105.41, 90.91], [112.77, 94.94],
    [106.10, 97.08], [98.05, 97.36], [145.53, 94.53], [152.59, 90.21], [160.61, 90.20],
    [166.68, 93.57], [160.56, 96.48], [152.20, 96.47], [107.17, 157.20], [114.48, 152.12],
    [123.85, 148.52], [128.98, 149.42], [134.14, 148.43], [144.18, 151.79], [152.19, 156.99],
    [143.86, 164.00], [136.74, 167.94], [129.15, 168.82], [121.80, 168.02], [115.28, 164.15],
    [109.23, 157.00], [122.50, 154.41], [129.03, 154.12], [135.84, 154.31], [150.76, 156.80],
    [135.66, 160.63], [128.95, 161.29], [122.49, 160.51],
])  # fmt: skip


@dataclass(frozen=True)
class Scheme:
    """How faces with K landmarks are aligned.

    Attributes:
        stable: The points from which the similarity transform is estimated.
        mouth: The points whose mean is the center of the crop.
        reference: The position of all points in the mean face, float [K, 2].
    """

    stable: tuple[int, ...]
    mouth: tuple[int, ...]
    reference: np.ndarray


def _mean_parts() -> np.ndarray:
    """Return the right eye, left eye, nose, and mouth of the mean face, [4, 2]."""
    parts = (slice(36, 42), slice(42, 48), slice(31, 36), slice(48, 68))
    return np.stack([MEAN_FACE[part].mean(0) for part in parts])


# By number of points. 68: AV-HuBERT's choice, the nose and the corners of the eyes. 4: the files of
# Auto-AVSR's mediapipe detector.
SCHEMES = {
    68: Scheme((33, 36, 39, 42, 45), tuple(range(48, 68)), MEAN_FACE),
    4: Scheme((0, 1, 2, 3), (3,), _mean_parts()),
}


def scheme_of(points: np.ndarray) -> Scheme:
    """Return the scheme for landmarks [..., K, 2]; InputError for another number K."""
    count = points.shape[-2]
    if count not in SCHEMES:
        raise InputError(f"{count} landmarks per face, expected {' or '.join(map(str, SCHEMES))}")
    return SCHEMES[count]


def fill_gaps(points: dict[int, np.ndarray], frames: int) -> np.ndarray:
    """Interpolate landmarks [K, 2] of some frames to [frames, K, 2]; constant at both ends."""
    known = sorted(points)
    values = np.stack([points[t] for t in known])
    flat = values.reshape(len(known), -1)
    times = np.arange(frames)
    filled = np.stack([np.interp(times, known, column) for column in flat.T], axis=1)
    return filled.reshape(frames, *values.shape[1:])


def smooth(points: np.ndarray) -> np.ndarray:
    """Average shapes [T, K, 2] over up to 6 frames on either side, keeping each one's center."""
    frames = len(points)
    sums = np.concatenate([np.zeros((1, *points.shape[1:])), np.cumsum(points, axis=0)])
    reach = np.minimum(np.minimum(np.arange(frames), frames - 1 - np.arange(frames)), HALF_WINDOW)
    first, last = np.arange(frames) - reach, np.arange(frames) + reach + 1
    means = (sums[last] - sums[first]) / (2 * reach + 1)[:, None, None]
    return means + (points - means).mean(axis=1, keepdims=True)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the least-squares rotation, scale, and shift from `source` to `target`.

    With points as complex numbers, it is the regression of the target on the source.

    Args:
        source: Points [T, K, 2].
        target: Points [K, 2].

    Returns:
        Transforms [T, 2, 3].
    """
    z = source[..., 0] + 1j * source[..., 1]
    w = target[..., 0] + 1j * target[..., 1]
    z_mean, w_mean = z.mean(-1, keepdims=True), w.mean(-1, keepdims=True)
    z_centered, w_centered = z - z_mean, w - w_mean
    with np.errstate(divide="ignore", invalid="ignore"):  # not finite if all points coincide
        turn = (z_centered.conj() * w_centered).sum(-1) / (abs(z_centered) ** 2).sum(-1)
    shift = w_mean[..., 0] - turn * z_mean[..., 0]
    return np.stack(
        [
            np.stack([turn.real, -turn.imag, shift.real], -1),
            np.stack([turn.imag, turn.real, shift.imag], -1),
        ],
        axis=-2,
    )


def misfit(points: np.ndarray) -> float:
    """Return the RMS distance of aligned landmarks [68, 2] from the mean face, in its pixels."""
    transform = similarity(points[None], MEAN_FACE)[0]
    placed = points @ transform[:, :2].T + transform[:, 2]
    return float(np.sqrt(((placed - MEAN_FACE) ** 2).sum(-1).mean()))


def mouth_transforms(points: np.ndarray) -> np.ndarray:
    """Return transforms [T, 2, 3] from frame to crop pixels for smoothed landmarks [T, K, 2]."""
    scheme = scheme_of(points)
    transforms = similarity(points[:, scheme.stable], scheme.reference[list(scheme.stable)])
    mouth = points[:, scheme.mouth].mean(axis=1)
    center = np.einsum("tij,tj->ti", transforms[:, :, :2], mouth) + transforms[:, :, 2]
    transforms[:, :, 2] += SIZE / 2 - center
    return transforms


def scales(transforms: np.ndarray) -> np.ndarray:
    """Return the scale of transforms in crop pixels per frame pixel, [T]."""
    return np.hypot(transforms[:, 0, 0], transforms[:, 1, 0])


def warp(image: np.ndarray, transform: np.ndarray, shrink: int = 1) -> np.ndarray:
    """Crop the mouth region from an image with bilinear interpolation.

    Args:
        image: Gray [H, W].
        transform: [2, 3], from frame to crop pixels.
        shrink: The image is first averaged over blocks of this many pixels in both directions.

    Returns:
        uint8 [96, 96], black outside the image.
    """
    if shrink > 1:
        height, width = (max(1, side // shrink) for side in image.shape)
        image = cv2.resize(
            image[: height * shrink, : width * shrink],
            (width, height),
            interpolation=cv2.INTER_AREA,
        )
        # The center of the small image's first pixel lies at (shrink - 1) / 2.
        offset = transform[:, :2] @ np.full(2, (shrink - 1) / 2)
        transform = np.column_stack([transform[:, :2] * shrink, transform[:, 2] + offset])
    return cv2.warpAffine(image, transform, (SIZE, SIZE), flags=cv2.INTER_LINEAR)


def share_outside(shape: tuple[int, ...], transforms: np.ndarray) -> float:
    """Return the share of crop pixels outside the image.

    Args:
        shape: The shape of the images, (H, W, ...).
        transforms: [T, 2, 3], from frame to crop pixels.
    """
    steps = np.linspace(0, SIZE - 1, 9)
    grid = np.stack(np.meshgrid(steps, steps)).reshape(2, -1)
    x, y = np.linalg.solve(transforms[:, :, :2], grid - transforms[:, :, 2:]).swapaxes(0, 1)
    inside = (x >= 0) & (x <= shape[1] - 1) & (y >= 0) & (y <= shape[0] - 1)
    return float(1 - inside.mean())
