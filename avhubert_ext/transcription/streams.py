"""What a recogniser takes of a video or sound file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from avhubert_ext.errors import InputError
from avhubert_ext.mouth.clip import NoFaceError, mouth_clips
from avhubert_ext.mouth.media import has_audio, has_video, read_audio

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Streams:
    """audio: int16 [N] at 16 kHz; video: the mouth region, uint8 [T, 96, 96]; None: not used.

    note: why, if nobody asked for that.
    """

    audio: np.ndarray | None
    video: np.ndarray | None
    note: str | None = None


def read_streams(
    path: Path,
    modalities: tuple[str, ...],
    *,
    face: int = 1,
    landmarks: Path | None = None,
    landmark_model: Path | None = None,
    progress: Progress | None = None,
) -> Streams:
    """The streams of a file: both if that is among the `modalities`, else what there is.

    For a video without audio that is in `NAME.wav` beside it, as `prepare-video` leaves clips.
    modalities: those that may be used, of "both", "audio" and "video". face, landmarks,
    landmark_model, progress: as `mouth_clips`. Raises InputError for a file that has none of them.
    """
    if modalities == ("audio",):
        return _sound(path)
    if not has_video(path):
        if "audio" not in modalities:
            raise InputError(f"{path}: no video track; give a file with a moving picture")
        return replace(_sound(path), note="no video track in it: audio only")
    try:
        clip, *_ = mouth_clips(
            path, face, landmarks=landmarks, landmark_model=landmark_model, progress=progress
        )
    except NoFaceError:
        if "audio" not in modalities:
            raise
        return replace(_sound(path), note="no face found in it: audio only")
    if "both" not in modalities:
        return Streams(None, clip.video)
    if clip.audio is not None:
        return Streams(clip.audio, clip.video)
    if "video" in modalities and not _beside(path).is_file():
        return Streams(None, clip.video, "no audio track in it: video only")
    return replace(_sound(path), video=clip.video)


def _sound(path: Path) -> Streams:
    """The audio of a file, or that beside it."""
    beside = _beside(path)
    if has_audio(path) or not beside.is_file():
        return Streams(read_audio(path), None)
    return Streams(read_audio(beside), None, f"no audio track in it: audio of {beside}")


def _beside(path: Path) -> Path:
    return path.with_suffix(".wav")
