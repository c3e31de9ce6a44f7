"""What every recogniser here looks like from outside, with PyTorch or without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Recognition:
    """What was recognised in a clip of T frames, and what its words are timed by.

    pieces: the U subwords, without the end of the sentence; tokens: their ids.
    score: of the hypothesis, by which the search ranked it.
    log_probs: float32 [U], of each subword after those before it, by the decoder.
    attention: float32 [U, T], how much the decoder looked at each frame when it chose a subword,
        each row adding up to 1; for models without CTC, else None.
    ctc: float32 [T, V], log probabilities of the CTC layer, the blank first; None without one.
    """

    pieces: tuple[str, ...]
    tokens: tuple[int, ...]
    score: float
    log_probs: np.ndarray
    attention: np.ndarray | None = None
    ctc: np.ndarray | None = None


class Recognizer(Protocol):
    """A model that is ready to use.

    modalities: which of "both", "audio" and "video" it takes.
    """

    modalities: tuple[str, ...]

    def recognize(self, audio: np.ndarray | None, video: np.ndarray | None) -> Recognition:
        """The best hypothesis of a clip.

        audio: int16 [N] at 16 kHz; video: the mouth region, uint8 [T, 96, 96] at 25 frames a
        second; either may be None if `modalities` says so. Raises InputError where they do not fit.
        """
        ...
