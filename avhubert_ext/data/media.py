"""Reading of any video or sound file: what is in it, its picture and its sound.

Both are placed on one clock, the file's own, so that one can be laid beside the other.
"""

from avhubert_ext.data.container import (
    LIMITS,
    AudioTrack,
    Limits,
    MediaInfo,
    PictureError,
    VideoTrack,
    check_duration,
    probe,
    too_long,
)
from avhubert_ext.data.pictures import Damage, video_frames
from avhubert_ext.data.sound import Sound, Soundtrack, beside, read_audio, read_sound

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
    "probe",
    "read_audio",
    "read_sound",
    "too_long",
    "video_frames",
]
