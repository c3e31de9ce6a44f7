"""Random changes to a training clip: mouth crop and flip, and adaptive time masking."""

from __future__ import annotations

import numpy as np

from avhubert_ext.data.video import CROP, crop

MASK_SECONDS = 0.4  # no mask is that long


def random_crop_and_flip(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One random window and one random flip for the whole clip."""
    height, width = frames.shape[1:]
    left = int(rng.integers(width - CROP + 1))
    top = int(rng.integers(height - CROP + 1))
    return crop(frames, top, left, flip=bool(rng.random() < 0.5))


def mask_time(values: np.ndarray, rng: np.random.Generator, rate: int) -> np.ndarray:
    """Adaptive time masking of Auto-AVSR: a mask for each second, begun or whole, of zeros.

    values: [T, ...], `rate` of them a second, not changed. Two numbers below 0.4 s are drawn for a
    mask: how long it is, and, as there, how far from the end of the clip it begins at least; where
    that is 0, or the clip shorter, there is no mask. Masks may overlap.
    """
    length = len(values)
    masked = np.array(values)
    for _ in range(-(-length // rate)):
        margin, width = rng.integers(round(MASK_SECONDS * rate), size=2)
        if 0 < margin < length:
            start = int(rng.integers(length - margin))
            masked[start : start + width] = 0
    return masked
