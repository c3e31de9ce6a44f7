"""Decoding of any video: upright frames at 25 a second, audio at 16 kHz, both from one origin.

No file is trusted: only demuxers of single media files are tried (a playlist could name other
files), no protocol but plain files, and sizes are limited.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avhubert_ext.data.audio import SAMPLE_RATE, SAMPLES_PER_FRAME
from avhubert_ext.data.video import FPS
from avhubert_ext.errors import InputError

if TYPE_CHECKING:
    import av

# FFmpeg's names of single-file formats; without hls, concat, image sequences, network streams.
FORMATS = (
    "aac,aiff,amr,asf,avi,flac,flv,h264,hevc,m4v,matroska,webm,mov,mp4,mp3,mpeg,mpegts,mpegvideo,"
    "mxf,nut,ogg,w64,wav"
)
TRUNCATED = 0.95  # of the length in the header; a shorter stream has lost its end


@dataclass(frozen=True)
class Limits:
    """What is still decoded: the length, and the size of a frame in pixels (8K)."""

    seconds: float = 3600.0
    pixels: int = 7680 * 4320


LIMITS = Limits()


def video_frames(path: Path, limits: Limits = LIMITS) -> Iterator[np.ndarray]:
    """Frames as RGB, uint8 [H, W, 3], upright, with square pixels, 25 a second.

    Any rate, constant or not, becomes 25 by the frames' time stamps: a frame is shown from the
    25th of a second nearest to its stamp until the next one. Raises InputError for what is no
    video, damaged, cut short, or over a limit.
    """
    with _opened(path) as container:
        stream = _video_stream(path, container)
        if stream.width * stream.height > limits.pixels:
            raise InputError(
                f"{path}: frames are {stream.width}x{stream.height}, over the limit of "
                f"{limits.pixels} pixels; make a smaller copy"
            )
        stream.thread_type = "NONE"  # workers fill the cores
        # Otherwise FFmpeg paints over damaged parts and says nothing.
        stream.codec_context.options = {
            "err_detect": "explode",
            "max_pixels": str(limits.pixels),
        }
        yield from _at_25_fps(path, stream, container.decode(stream), limits)


def video_size(path: Path) -> tuple[int, int]:
    """Width and height in square pixels, before any rotation."""
    with _opened(path) as container:
        return _square_size(_video_stream(path, container))


def has_video(path: Path) -> bool:
    """Whether there is a moving picture in the file; a cover of a song is none."""
    with _opened(path) as container:
        return bool(_moving_pictures(container))


def has_audio(path: Path) -> bool:
    """Whether there is a sound track in the file."""
    with _opened(path) as container:
        return bool(container.streams.audio)


def read_audio(path: Path, limits: Limits = LIMITS) -> np.ndarray:
    """The audio of a sound or video file as int16 [N], mono, 16 kHz.

    Raises InputError for a file without audio, damaged, or over the limit.
    """
    with _opened(path) as container:
        if not container.streams.audio:
            raise InputError(f"{path}: no audio track; give a file with sound")
        _, samples = _decode_audio(path, container, limits)
    return samples


def soundtrack(path: Path, frames: int, limits: Limits = LIMITS) -> np.ndarray | None:
    """The audio beside `frames` frames of `video_frames`, int16 [frames * 640]; None without one.

    It begins with the first frame, whichever track begins first in the file, and is cut or filled
    up with silence at the end.
    """
    with _opened(path) as container:
        if not container.streams.audio:
            return None
        video = _video_stream(path, container)
        origin = float((video.start_time or 0) * video.time_base)
        start, samples = _decode_audio(path, container, limits)
    lead = round((start - origin) * SAMPLE_RATE)
    fitted = np.zeros(frames * SAMPLES_PER_FRAME, np.int16)
    samples = samples[max(0, -lead) :]
    lead = min(max(0, lead), len(fitted))
    samples = samples[: len(fitted) - lead]
    fitted[lead : lead + len(samples)] = samples
    return fitted


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a file; whatever FFmpeg dislikes in the block becomes an InputError."""
    import av

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} not found, or no file; mend the path")
    if not path.stat().st_size:
        raise InputError(f"{path}: empty, 0 bytes; copy it again")
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        # With the protocol: a name such as http:x.mp4 is a file's name here.
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            yield container
    except (av.error.FFmpegError, ValueError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: not a video or sound that decodes ({reason}); copy it again"
        ) from None


def _moving_pictures(container: av.container.InputContainer) -> list[av.VideoStream]:
    from av.stream import Disposition

    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def _video_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    found = _moving_pictures(container)
    if not found:
        raise InputError(f"{path}: no video track; give a file with a moving picture")
    return _decodable(path, found[0])


def _decodable(path: Path, stream: av.stream.Stream) -> av.stream.Stream:
    if stream.codec_context is None:
        raise InputError(f"{path}: its {stream.type} is in an unknown codec; convert it")
    return stream


def _at_25_fps(
    path: Path,
    stream: av.VideoStream,
    decoded: Iterator[av.VideoFrame],
    limits: Limits,
) -> Iterator[np.ndarray]:
    rate = float(stream.average_rate or stream.guessed_rate or FPS)
    upright = _Upright(stream)
    first = end = None
    shown = None  # the frame before, to be shown until `due` reaches the next
    due = 0
    for count, frame in enumerate(decoded):
        time = frame.time if frame.time is not None else (first or 0.0) + count / rate
        first = time if first is None else first
        if time - first > limits.seconds:
            raise InputError(
                f"{path}: longer than the limit of {limits.seconds:g} s; cut it into pieces"
            )
        if end is not None and time < end - 1:
            raise InputError(
                f"{path}: its time stamps go back after {end - first:.1f} s; convert it, or cut it "
                "there"
            )
        end = max(end or time, time + float((frame.duration or 0) * frame.time_base or 1 / rate))
        index = round((time - first) * FPS)
        if index > due:
            image = upright.rgb(shown)
            for _ in range(due, index):
                yield image
            due = index
        shown = frame
    if shown is None:
        raise InputError(f"{path}: no video frames in it; copy it again")
    declared = _declared(stream)
    if end - first < min(TRUNCATED * declared, declared - 1):
        raise InputError(
            f"{path}: cut short, {end - first:.1f} s of the {declared:.1f} s in its header; "
            "copy it again"
        )
    image = upright.rgb(shown)
    for _ in range(due, max(due + 1, round((end - first) * FPS))):
        yield image


def _declared(stream: av.VideoStream) -> float:
    """The length of a track by its header, in seconds; 0 if it does not tell."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    match stream.metadata.get("DURATION", "").split(":"):  # Matroska's, 00:00:01.000000000
        case [hours, minutes, seconds]:
            with suppress(ValueError):
                return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
    return 0.0


def _square_size(stream: av.VideoStream) -> tuple[int, int]:
    """Width and height of a stream's frames in square pixels."""
    ratio = float(stream.sample_aspect_ratio or 1)
    if not 0.25 < ratio < 4:  # a mistake
        ratio = 1.0
    return round(stream.width * ratio), stream.height


class _Upright:
    """Frames of a stream as RGB with square pixels, turned as the file says."""

    def __init__(self, stream: av.VideoStream) -> None:
        import av

        # One for all frames: the frames' own would set up the conversion anew each time.
        self._reformat = av.video.reformatter.VideoReformatter().reformat
        self._width, self._height = _square_size(stream)

    def rgb(self, frame: av.VideoFrame) -> np.ndarray:
        # All frames of one size, even if the stream changes its own on the way.
        image = self._reformat(
            frame, width=self._width, height=self._height, format="rgb24"
        ).to_ndarray()
        turns = round(frame.rotation / 90) % 4  # anticlockwise
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _decode_audio(
    path: Path, container: av.container.InputContainer, limits: Limits
) -> tuple[float, np.ndarray]:
    """When the first audio track begins, in seconds, and its samples, int16 [N]."""
    import av

    stream = _decodable(path, container.streams.audio[0])
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
    start, chunks, samples = None, [], 0
    for frame in container.decode(stream):
        start = frame.time or 0.0 if start is None else start
        for resampled in resampler.resample(frame):
            chunks.append(resampled.to_ndarray()[0])
            samples += len(chunks[-1])
        if samples > limits.seconds * SAMPLE_RATE:
            raise InputError(
                f"{path}: longer than the limit of {limits.seconds:g} s; cut it into pieces"
            )
    if chunks:
        chunks += [r.to_ndarray()[0] for r in resampler.resample(None)]
    if not samples:
        raise InputError(f"{path}: its audio track is empty; copy it again")
    return start, np.concatenate(chunks)
