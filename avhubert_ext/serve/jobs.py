"""What the worker processes do: read an upload, recognize a clip."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avhubert_ext.errors import InputError
from avhubert_ext.recognizers.base import Recognizer
from avhubert_ext.serve.clips import Clip
from avhubert_ext.serve.limits import Limits
from avhubert_ext.serve.process import Tell
from avhubert_ext.transcription.transcribe import Transcript, check_longest

if TYPE_CHECKING:
    from avhubert_ext.mouth.clip import Faces, MouthClip

SHEET = 16  # frames across and down on a sheet, which is 10 seconds
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Upload:
    """A file as it came.

    name: what its owner calls it, only ever shown; face: whose mouth, see `mouth_clips`.
    """

    path: Path
    name: str
    face: Faces = "speaking"


Streams = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]
"""What a recognizer is given: int16 [N] at 16 kHz, uint8 [T, 96, 96], either may be None; and bool
[T], where the picture shows the face."""


def make_reader(
    limits: Limits, landmark_model: Path | None
) -> tuple[Callable[[Upload, Tell], Clip], None]:
    """What gets a clip from a file that no one trusts.

    landmark_model: see `open_landmarker`.
    """
    from avhubert_ext.mouth.landmarks import open_landmarker

    # Its libraries are loaded now: not while a visitor waits, nor out of what a clip may take.
    with suppress(InputError), open_landmarker(landmark_model):
        pass

    def read(upload: Upload, tell: Tell) -> Clip:
        try:
            return _read(upload, limits.seconds, landmark_model, tell)
        except InputError as error:
            raise InputError(str(error).replace(str(upload.path), upload.name)) from None

    return read, None


def _read(upload: Upload, seconds: int, landmark_model: Path | None, tell: Tell) -> Clip:
    from avhubert_ext.data.media import Limits as MediaLimits
    from avhubert_ext.transcription.streams import read_streams

    streams = read_streams(
        upload.path,
        ("both", "audio", "video"),
        face=upload.face,
        landmark_model=landmark_model,
        limits=MediaLimits(seconds=seconds),
        progress=tell,
    )
    clip = Clip(upload.name, streams.video, streams.audio, streams.notes)
    if streams.clip is None:
        return clip
    return replace(
        clip,
        quality=asdict(streams.clip.quality),
        sheets=sheets(streams.video),
        face=_face(streams.clip),
        seen=streams.seen,
        number=streams.clip.face,
    )


def make_recognizer(
    load: Callable[[], Recognizer], longest: float
) -> tuple[Callable[[Streams, Tell], Transcript], tuple[str, ...]]:
    """What gets the words of a clip, and the modalities that the recognizer of `load` takes.

    longest: seconds that are recognized at once.
    """
    check_longest(longest)
    recognizer = load()

    def recognize(streams: Streams, tell: Tell) -> Transcript:
        audio, video, seen = streams
        return recognizer.transcribe(
            audio=audio, video=video, seen=seen, longest=longest, progress=tell
        )

    return recognize, recognizer.modalities


def sheets(video: np.ndarray) -> tuple[bytes, ...]:
    """uint8 [T, H, W] -> JPEG pictures of 16x16 frames each, row by row, the last one shorter."""
    pictures = []
    for first in range(0, len(video), SHEET**2):
        frames = video[first : first + SHEET**2]
        height, width = frames.shape[1:]
        padded = np.zeros((-(-len(frames) // SHEET) * SHEET, height, width), np.uint8)
        padded[: len(frames)] = frames
        rows = padded.reshape(-1, SHEET, height, width).swapaxes(1, 2)
        pictures.append(_jpeg(rows.reshape(-1, SHEET * width)))
    return tuple(pictures)


def _face(mouth: MouthClip) -> bytes | None:
    """A JPEG of a frame with the face, with the outline of what is cut out; None without one."""
    shown = (mouth.pictures[t] for t in mouth.pictures if mouth.seen[t])
    picture = next(shown, next(iter(mouth.pictures.values()), None))
    return None if picture is None else _jpeg(picture[..., ::-1])


def _jpeg(picture: np.ndarray) -> bytes:
    """Of uint8 [H, W], or [H, W, 3] in the order BGR."""
    import cv2

    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
