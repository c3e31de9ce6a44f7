"""What the worker processes do: read an upload, recognise a clip."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avhubert_ext.errors import InputError
from avhubert_ext.serve.clips import Clip
from avhubert_ext.serve.limits import Limits
from avhubert_ext.serve.process import Tell

SHEET = 16  # frames across and down on a sheet, which is 10 seconds
JPEG_QUALITY = 85
QUIET = 30  # root mean square of int16 samples below which no one is heard


@dataclass(frozen=True)
class Upload:
    """A file as it came. name: what its owner calls it, only ever shown."""

    path: Path
    name: str


@dataclass(frozen=True, eq=False)
class Sight:
    """What a recogniser is given: int16 [N] at 16 kHz, uint8 [T, 96, 96]; either may be None."""

    audio: np.ndarray | None
    video: np.ndarray | None


def make_reader(limits: Limits) -> tuple[Callable[[Upload, Tell], Clip], None]:
    """What gets a clip from a file that no one trusts."""
    from avhubert_ext.mouth import clip, landmarks, media

    of_media = media.Limits(seconds=limits.seconds)
    # Its libraries are loaded now: not while a visitor waits, nor out of what a clip may take.
    with suppress(InputError), landmarks.open_landmarker():
        pass

    def read(upload: Upload, tell: Tell) -> Clip:
        try:
            if not media.has_video(upload.path):
                audio = media.read_audio(upload.path, of_media)
                return Clip(upload.name, None, audio, (), {}, ("There is no video in it.",))
            mouth = clip.mouth_clips(upload.path, limits=of_media, progress=tell)[0]
        except InputError as error:
            raise InputError(str(error).replace(str(upload.path), upload.name)) from None
        quality = asdict(mouth.quality)
        warnings = _warnings(mouth.audio)
        return Clip(upload.name, mouth.video, mouth.audio, sheets(mouth.video), quality, warnings)

    return read, None


def make_recogniser(
    load: Callable[[], Any],
) -> tuple[Callable[[Sight, Tell], dict[str, Any]], tuple[str, ...]]:
    """What gets the words of a clip, and the modalities that `load`'s recogniser takes."""
    from avhubert_ext.transcription.transcribe import transcribe

    recognizer = load()

    def recognise(sight: Sight, tell: Tell) -> dict[str, Any]:
        return asdict(transcribe(recognizer, sight.audio, sight.video, progress=tell))

    return recognise, recognizer.modalities


def sheets(video: np.ndarray) -> tuple[bytes, ...]:
    """uint8 [T, H, W] -> JPEG pictures of 16x16 frames each, row by row, the last one shorter."""
    import cv2

    pictures = []
    for first in range(0, len(video), SHEET**2):
        frames = video[first : first + SHEET**2]
        padded = np.zeros((-(-len(frames) // SHEET) * SHEET, *frames.shape[1:]), np.uint8)
        padded[: len(frames)] = frames
        height, width = frames.shape[1:]
        grid = padded.reshape(-1, SHEET, height, width).swapaxes(1, 2)
        picture = grid.reshape(-1, SHEET * width)
        _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        pictures.append(jpeg.tobytes())
    return tuple(pictures)


def _warnings(audio: np.ndarray | None) -> tuple[str, ...]:
    if audio is None:
        return ("There is no sound in it.",)
    if np.sqrt(np.mean(audio.astype(np.float32) ** 2)) < QUIET:
        return ("It is all but silent.",)
    return ()
