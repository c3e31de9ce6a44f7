"""What every recognizer here looks like from outside, with PyTorch or without."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avhubert_ext.data.audio import (
    SAMPLES_PER_FRAME,
    audio_features,
    check_samples,
    waveform_input,
)
from avhubert_ext.data.text import join_pieces
from avhubert_ext.data.video import CROP, FPS, SLACK, center_crop, normalize_pixels
from avhubert_ext.errors import InputError


@dataclass(frozen=True)
class Recognition:
    """What was recognized in a clip of T frames, and what its words are timed by.

    pieces: the U subwords, without the end of the sentence; tokens: their ids.
    score: of the hypothesis, by which the search ranked it.
    log_probs: float32 [U], of each subword after those before it, by the decoder.
    attention: float32 [U, T], how much the decoder looked at each frame when it chose a subword,
        the mean over its layers and heads, each row adding up to 1; for models without CTC, else
        None.
    ctc: float32 [T, V], log probabilities of the CTC layer, the blank first; None without one.
    """

    pieces: tuple[str, ...]
    tokens: tuple[int, ...]
    score: float
    log_probs: np.ndarray
    attention: np.ndarray | None = None
    ctc: np.ndarray | None = None

    @property
    def text(self) -> str:
        """The words."""
        return join_pieces(self.pieces)


def clip_modality(
    audio: np.ndarray | None, video: np.ndarray | None, modalities: tuple[str, ...]
) -> tuple[str, int]:
    """Which of the `modalities` a clip is, and its length in frames.

    Raises InputError where it is none of them, or not as `Recognizer.recognize` wants it.
    """
    if audio is None and video is None:
        raise InputError("a clip has neither audio nor video: give one of them")
    if audio is not None:
        check_samples(audio, "audio")
        modality, frames = "audio", -(-len(audio) // SAMPLES_PER_FRAME)
    if video is not None:
        _check_video(video)
        modality, frames = "video" if audio is None else "both", len(video)
    if modality not in modalities:
        takes = " or ".join(map(_named, modalities))
        raise InputError(f"the clip has {_named(modality)}, the model takes {takes}")
    return modality, frames


def _check_lengths(samples: int, frames: int) -> None:
    """Raise an InputError where sound and picture of a clip differ by more than SLACK."""
    heard = samples / SAMPLES_PER_FRAME
    if abs(heard - frames) > SLACK:
        raise InputError(
            f"the clip's sound is {heard / FPS:.2f} s long, the picture {frames / FPS:.2f} s "
            f"({frames} frames at {FPS} a second): they may differ by {SLACK / FPS:g} s; cut "
            "both to the same time"
        )


def _check_video(video: np.ndarray) -> None:
    found = np.asarray(video)
    if found.dtype != np.uint8 or found.ndim != 3 or not len(found) or min(found.shape[1:]) < CROP:
        raise InputError(
            f"video is {found.dtype} {list(found.shape)}: expected the mouth region, uint8 "
            "[T, 96, 96] at 25 frames a second"
        )


def _named(modality: str) -> str:
    return {"both": "audio and video"}.get(modality, f"{modality} alone")


def network_inputs(
    audio: np.ndarray | None,
    video: np.ndarray | None,
    modalities: tuple[str, ...],
    waveform: bool = False,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What networks take of a clip of T frames, as in training, float32.

    audio, video: as `Recognizer.recognize`; the audio is cut, or filled up, to the video's length,
    by SLACK at most. waveform: as Auto-AVSR takes audio. Returns features [T, 104] or a
    waveform [T, 640], and video [T, 88, 88]. Raises InputError as `clip_modality`, and for lengths
    that differ by more.
    """
    _, frames = clip_modality(audio, video, modalities)
    if audio is not None and video is not None:
        _check_lengths(len(audio), len(video))
    pixels = None if video is None else normalize_pixels(center_crop(video))
    if audio is None:
        return None, pixels
    to_features = waveform_input if waveform else audio_features
    return to_features(audio, n_frames=frames), pixels
