"""Augmentation of training clips: random crop and flip, and adaptive time masking."""

from __future__ import annotations

import numpy as np

from avhubert_ext.data.video import CROP, crop

MASK_SECONDS = 0.4  # exclusive upper bound of a mask's length


def random_crop_and_flip(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Crop [T, H, W] to one random 88x88 window and flip it at random, the same in every frame."""
    height, width = frames.shape[1:]
    left = int(rng.integers(width - CROP + 1))
    top = int(rng.integers(height - CROP + 1))
    return crop(frames, top, left, flip=bool(rng.random() < 0.5))


def mask_time(values: np.ndarray, rng: np.random.Generator, rate: int) -> np.ndarray:
    """Mask a clip in time as Auto-AVSR does (Ma et al., 2023): one mask of zeros per second.

    A fraction of a second at the end counts as a second. For each mask, two numbers below 0.4 s
    are drawn: its length, and the smallest distance of its start from the end of the clip. There
    is no mask if that distance is 0 or larger than the clip. Masks may overlap.

    Args:
        values: [T, ...]; not modified.
        rng: Draws the masks.
        rate: Values per second.

    Returns:
        A masked copy of `values`.
    """
    length = len(values)
    masked = np.array(values)
    for _ in range(-(-length // rate)):
        margin, width = rng.integers(round(MASK_SECONDS * rate), size=2)
        if 0 < margin < length:
            start = int(rng.integers(length - margin))
            masked[start : start + width] = 0
    return masked
