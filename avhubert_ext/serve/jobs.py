"""What the worker processes do: read an upload, recognise a clip."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avhubert_ext.errors import InputError
from avhubert_ext.recognition import Recognizer
from avhubert_ext.serve.clips import Clip
from avhubert_ext.serve.limits import Limits
from avhubert_ext.serve.process import Tell
from avhubert_ext.transcription.transcribe import Transcript, check_longest, transcribe

if TYPE_CHECKING:
    from avhubert_ext.mouth import media
    from avhubert_ext.mouth.clip import MouthClip

SHEET = 16  # frames across and down on a sheet, which is 10 seconds
JPEG_QUALITY = 85
QUIET = 30  # root mean square of int16 samples below which no one is heard
MISSING = 0.1  # share of frames without the face that is worth a warning
ENLARGED = 2.0  # times that a face is, when there is too little of it
NO_VIDEO = "There is no video in it: the words come from the sound alone."
NO_FACE = "No face was found in it: the words come from the sound alone."


@dataclass(frozen=True)
class Upload:
    """A file as it came.

    name: what its owner calls it, only ever shown; face: whose mouth, the largest is 1.
    """

    path: Path
    name: str
    face: int = 1


Streams = tuple[np.ndarray | None, np.ndarray | None]
"""What a recogniser is given: int16 [N] at 16 kHz, uint8 [T, 96, 96]; either may be None."""


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
    from avhubert_ext.mouth import media
    from avhubert_ext.mouth.clip import NoFaceError, mouth_clips

    limits = media.Limits(seconds=seconds)
    try:
        if not media.has_video(upload.path):
            return Clip(upload.name, None, media.read_audio(upload.path, limits), (NO_VIDEO,))
        (mouth,) = mouth_clips(
            upload.path, upload.face, landmark_model=landmark_model, limits=limits, progress=tell
        )
    except NoFaceError as no_face:
        try:
            audio = media.read_audio(upload.path, limits)
        except InputError:
            raise no_face from None
        return Clip(upload.name, None, audio, (NO_FACE,))
    face = None if mouth.points is None else _face(upload.path, mouth, limits)
    return Clip(
        upload.name,
        mouth.video,
        mouth.audio,
        _warnings(mouth),
        asdict(mouth.quality),
        sheets(mouth.video),
        face,
    )


def make_recogniser(
    load: Callable[[], Recognizer], longest: float
) -> tuple[Callable[[Streams, Tell], Transcript], tuple[str, ...]]:
    """What gets the words of a clip, and the modalities that the recogniser of `load` takes.

    longest: seconds that are recognised at once.
    """
    check_longest(longest)
    recognizer = load()

    def recognise(streams: Streams, tell: Tell) -> Transcript:
        return transcribe(recognizer, *streams, longest=longest, progress=tell)

    return recognise, recognizer.modalities


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


def _face(path: Path, mouth: MouthClip, limits: media.Limits) -> bytes:
    """A JPEG of the first frame with the outline of what is cut out."""
    from avhubert_ext.mouth.media import video_frames
    from avhubert_ext.mouth.sheet import outlined

    frame = next(iter(video_frames(path, limits)))
    return _jpeg(outlined(frame, mouth.points[0], mouth.transforms[0])[..., ::-1])


def _jpeg(picture: np.ndarray) -> bytes:
    """Of uint8 [H, W], or [H, W, 3] in the order BGR."""
    import cv2

    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _warnings(mouth: MouthClip) -> tuple[str, ...]:
    quality = mouth.quality
    found = []
    if mouth.audio is None:
        found.append("There is no sound in it.")
    elif np.sqrt(np.mean(mouth.audio.astype(np.float32) ** 2)) < QUIET:
        found.append("It is all but silent.")
    if quality.missing > MISSING * quality.frames:
        found.append("The face is often not seen: what the lips tell there is guessed.")
    if quality.scale > ENLARGED:
        found.append("The face is small: come closer, there is little to read on the lips.")
    return tuple(found)
