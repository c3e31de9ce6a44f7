"""The input and the result of recognizing one clip, with or without PyTorch."""

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
    """The best hypothesis for a clip of T frames, and the data that its words are aligned by.

    Attributes:
        pieces: The U subwords, without the end of the sentence.
        tokens: Their ids.
        score: The hypothesis's score in the search.
        log_probs: float32 [U], the decoder's log probability of each subword given those before.
        attention: float32 [U, T], the decoder's attention to each frame when it chose a subword:
            the mean over layers and heads, so that each row sums to 1. None for models with CTC.
        ctc: float32 [T, V], log probabilities of the CTC layer, the blank first. None for models
            without CTC.
    """

    pieces: tuple[str, ...]
    tokens: tuple[int, ...]
    score: float
    log_probs: np.ndarray
    attention: np.ndarray | None = None
    ctc: np.ndarray | None = None

    @property
    def text(self) -> str:
        """The recognized words, separated by blanks."""
        return join_pieces(self.pieces)


def clip_modality(
    audio: np.ndarray | None, video: np.ndarray | None, modalities: tuple[str, ...]
) -> tuple[str, int]:
    """Check a clip, and return its modality and its length in frames.

    Args:
        audio: int16 [N] at 16 kHz, or None.
        video: uint8 [T, H, W] at 25 frames per second with H and W at least 88, or None.
        modalities: The modalities that the model takes.

    Raises:
        InputError: If an array is of another type or shape, or the model does not take the
            clip's modality.
    """
    if audio is None and video is None:
        raise InputError("the clip has neither audio nor video: give at least one")
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
    """Raise an InputError if the audio and video of a clip differ by more than SLACK frames."""
    heard = samples / SAMPLES_PER_FRAME
    if abs(heard - frames) > SLACK:
        raise InputError(
            f"the clip's audio is {heard / FPS:.2f} s long, its video {frames / FPS:.2f} s "
            f"({frames} frames at {FPS} per second): they may differ by at most {SLACK / FPS:g} s; "
            "cut both to the same length"
        )


def _check_video(video: np.ndarray) -> None:
    found = np.asarray(video)
    if found.dtype != np.uint8 or found.ndim != 3 or not len(found) or min(found.shape[1:]) < CROP:
        raise InputError(
            f"video is {found.dtype} {list(found.shape)}: expected the mouth region, uint8 "
            "[T, 96, 96] at 25 frames per second"
        )


def _named(modality: str) -> str:
    return {"both": "audio and video"}.get(modality, f"{modality} alone")


def network_inputs(
    audio: np.ndarray | None,
    video: np.ndarray | None,
    modalities: tuple[str, ...],
    waveform: bool = False,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Convert a clip of T frames to network inputs, exactly as in training.

    Args:
        audio: int16 [N] at 16 kHz, or None; cut or padded to the video's length.
        video: The mouth region, uint8 [T, H, W] at 25 frames per second, or None.
        modalities: The modalities that the model takes.
        waveform: Whether the model takes a waveform (Auto-AVSR) instead of features (AV-HuBERT).

    Returns:
        Features [T, 104] or a waveform [T, 640], and pixels [T, 88, 88], float32; None for a
        missing stream.

    Raises:
        InputError: See `clip_modality`; also if the lengths differ by more than SLACK frames.
    """
    _, frames = clip_modality(audio, video, modalities)
    if audio is not None and video is not None:
        _check_lengths(len(audio), len(video))
    pixels = None if video is None else normalize_pixels(center_crop(video))
    if audio is None:
        return None, pixels
    to_features = waveform_input if waveform else audio_features
    return to_features(audio, n_frames=frames), pixels
