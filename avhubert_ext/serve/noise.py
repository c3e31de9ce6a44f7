"""The noise of the slider: a file the user names, or babble made of the clip's own speech."""

from __future__ import annotations

import numpy as np

from avhubert_ext.data.noise import add_noise

LEVELS = (None, 20, 15, 10, 5, 0, -5, -10)  # dB of the slider; None is clean
VOICES = 8


def own_babble(speech: np.ndarray) -> np.ndarray:
    """int16 [N] -> int16 [N]: the clip's speech several times, shifted, every other time backwards.

    Needs no data, and has the speaker's own spectrum; but it is one voice, never silent, and
    harder or easier than babble of many talkers, so word error rates belong elsewhere.
    """
    rng = np.random.default_rng(0)  # the same noise for every model and visit
    voices = np.zeros(len(speech), np.float32)
    for number in range(VOICES):
        voice = speech[::-1] if number % 2 else speech
        voices += np.roll(voice, rng.integers(len(speech)))
    return (voices / VOICES).astype(np.int16)


def noisy(speech: np.ndarray, noise: np.ndarray | None, level: int | None) -> np.ndarray:
    """int16 [N] -> int16 [N] with noise (int16 [M], None for babble of its own) at `level` dB."""
    if level is None:
        return speech
    return add_noise(speech, own_babble(speech) if noise is None else noise, level)
