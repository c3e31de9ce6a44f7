"""The noise of the slider: from a file, or babble made from the clip's own speech."""

from __future__ import annotations

import numpy as np

from avhubert_ext.data.noise import add_noise

LEVELS = (None, 20, 15, 10, 5, 0, -5, -10)  # dB of the slider; None is clean
VOICES = 8


def own_babble(speech: np.ndarray) -> np.ndarray:
    """Overlay shifted copies of a clip's speech, every other one reversed: int16 [N] -> int16 [N].

    This needs no data and has the speaker's spectrum. But it is a single voice that never pauses,
    and may be harder or easier than babble of many talkers: do not measure word error rates on it.
    """
    rng = np.random.default_rng(0)  # the same noise for every model and visitor
    voices = np.zeros(len(speech), np.float32)
    for number in range(VOICES):
        voice = speech[::-1] if number % 2 else speech
        voices += np.roll(voice, rng.integers(len(speech)))
    return (voices / VOICES).astype(np.int16)


def noisy(speech: np.ndarray, noise: np.ndarray | None, level: int | None) -> np.ndarray:
    """Add noise to int16 [N] at `level` dB; noise: int16 [M], or None for `own_babble`."""
    if level is None:
        return speech
    return add_noise(speech, own_babble(speech) if noise is None else noise, level)
