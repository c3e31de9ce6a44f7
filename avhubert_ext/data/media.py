"""Read any video or sound file: its header, its frames, and its sound.

Frames and sound are placed on one clock, that of the file, so that they can be aligned.
"""

from avhubert_ext.data.container import (
    MEDIA_LIMITS,
    AudioTrack,
    MediaInfo,
    MediaLimits,
    PictureError,
    VideoTrack,
    check_duration,
    probe,
    too_long,
)
from avhubert_ext.data.pictures import Damage, video_frames
from avhubert_ext.data.sound import Sound, Soundtrack, beside, read_audio, read_sound

__all__ = [
    "MEDIA_LIMITS",
    "AudioTrack",
    "Damage",
    "MediaInfo",
    "MediaLimits",
    "PictureError",
    "Sound",
    "Soundtrack",
    "VideoTrack",
    "beside",
    "check_duration",
    "probe",
    "read_audio",
    "read_sound",
    "too_long",
    "video_frames",
]
