"""The work of the worker processes: read an upload, recognize a clip."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avhubert_ext.errors import InputError
from avhubert_ext.progress import Report
from avhubert_ext.recognizers.base import Recognizer
from avhubert_ext.serve.clips import UploadedClip
from avhubert_ext.serve.limits import ServeLimits
from avhubert_ext.transcription.transcribe import Transcript, check_longest

if TYPE_CHECKING:
    from avhubert_ext.mouth.clip import Faces, MouthClip

SHEET = 16  # frames per row and column of a sheet, which covers 10 seconds
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Upload:
    """An uploaded file.

    Attributes:
        path: Where it is stored.
        name: Its name at the sender, for display only.
        face: Which face to read, see `mouth_clips`.
    """

    path: Path
    name: str
    face: Faces = "speaking"


Streams = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]
"""Audio int16 [N] at 16 kHz, video uint8 [T, 96, 96], and seen, bool [T]; each may be None."""


def make_reader(
    limits: ServeLimits, landmark_model: Path | None
) -> tuple[Callable[[Upload, Report], UploadedClip], None]:
    """Make the function that reads an untrusted upload.

    Args:
        limits: Limits of the server.
        landmark_model: See `open_landmarker`.

    Returns:
        The function, and None (nothing to report to the server).
    """
    from avhubert_ext.mouth.landmarks import open_landmarker

    # Load the libraries now: neither while a visitor waits, nor out of a clip's memory.
    with suppress(InputError), open_landmarker(landmark_model):
        pass

    def read(upload: Upload, report: Report) -> UploadedClip:
        try:
            return _read(upload, limits.seconds, landmark_model, report)
        except InputError as error:
            raise InputError(str(error).replace(str(upload.path), upload.name)) from None

    return read, None


def _read(
    upload: Upload, seconds: int, landmark_model: Path | None, report: Report
) -> UploadedClip:
    from avhubert_ext.data.media import MediaLimits
    from avhubert_ext.transcription.streams import read_streams

    streams = read_streams(
        upload.path,
        ("both", "audio", "video"),
        face=upload.face,
        landmark_model=landmark_model,
        limits=MediaLimits(seconds=seconds),
        progress=report,
    )
    clip = UploadedClip(upload.name, streams.video, streams.audio, streams.notes)
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
) -> tuple[Callable[[Streams, Report], Transcript], tuple[str, ...]]:
    """Make the function that transcribes a clip.

    Args:
        load: Opens the recognizer.
        longest: Seconds that are recognized at once.

    Returns:
        The function, and the modalities that the recognizer takes.
    """
    check_longest(longest)
    recognizer = load()

    def recognize(streams: Streams, report: Report) -> Transcript:
        audio, video, seen = streams
        return recognizer.transcribe(
            audio=audio, video=video, seen=seen, longest=longest, progress=report
        )

    return recognize, recognizer.modalities


def sheets(video: np.ndarray) -> tuple[bytes, ...]:
    """Make JPEG contact sheets of 16x16 frames from uint8 [T, H, W]; the last one is shorter."""
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
    """Return a JPEG of a frame with the outline of the crop; None for ready-made mouth regions."""
    shown = (mouth.pictures[t] for t in mouth.pictures if mouth.seen[t])
    picture = next(shown, next(iter(mouth.pictures.values()), None))
    return None if picture is None else _jpeg(picture[..., ::-1])


def _jpeg(picture: np.ndarray) -> bytes:
    """Encode uint8 [H, W], or [H, W, 3] in BGR order, as JPEG."""
    import cv2

    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
