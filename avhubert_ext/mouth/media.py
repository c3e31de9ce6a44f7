"""Reading of any video or sound file: what is in it, its picture and its sound.

Both are placed on one clock, the file's own, so that a caller can lay one beside the other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avhubert_ext.mouth.container import (
    LIMITS,
    AudioTrack,
    Limits,
    MediaInfo,
    PictureError,
    VideoTrack,
    check_duration,
    probe,
)
from avhubert_ext.mouth.pictures import Damage, video_frames
from avhubert_ext.mouth.sound import Sound, Soundtrack, beside, read_audio, read_sound

__all__ = [
    "LIMITS",
    "AudioTrack",
    "Damage",
    "Limits",
    "MediaInfo",
    "PictureError",
    "Sound",
    "Soundtrack",
    "VideoTrack",
    "beside",
    "check_duration",
    "has_audio",
    "has_video",
    "probe",
    "read_audio",
    "read_sound",
    "soundtrack",
    "video_frames",
    "video_size",
]


def video_size(path: Path) -> tuple[int, int]:
    """Width and height of the frames of `video_frames`."""
    video = probe(path).video
    if video is None:
        raise PictureError(f"{path}: no video track; give a file with a moving picture")
    return video.width, video.height


def has_video(path: Path) -> bool:
    """Whether there is a moving picture in the file; a cover of a song is none."""
    return probe(path).video is not None


def has_audio(path: Path) -> bool:
    """Whether there is a sound track in the file."""
    return probe(path).audio is not None


def soundtrack(path: Path, frames: int, limits: Limits = LIMITS) -> np.ndarray | None:
    """The audio beside so many frames of `video_frames`, int16 [frames * 640]; None without one."""
    info = probe(path)
    if info.audio is None:
        return None
    start = 0.0 if info.video is None else info.video.start
    return beside(read_sound(path, limits), start, frames).samples
