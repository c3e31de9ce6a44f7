"""Open media files and read their headers.

No file is trusted. Only demuxers of single media files are tried (a playlist could refer to other
files), plain files are the only protocol, and the length and the frame size are limited.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avhubert_ext.errors import InputError

if TYPE_CHECKING:
    import av

# FFmpeg's names of single-file formats: no hls, concat, image sequences, or network streams.
FORMATS = (
    # video, most with sound
    "asf,avi,dv,flv,gif,gxf,ivf,m4v,matroska,webm,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nsv,nut,nuv,"
    "ogg,rm,wtv,yuv4mpegpipe,av1,dirac,h261,h263,h264,hevc,obu,vc1,vvc,"
    # sound
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,au,caf,dsf,dts,dtshd,eac3,flac,gsm,loas,mlp,mp3,mpc,mpc8,"
    "nistsphere,oma,paf,qcp,shn,sox,spdif,tak,truehd,tta,voc,w64,wav,wv,xwma"
)
# Formats without time stamps: FFmpeg guesses their length from the bit rate of the beginning.
UNTIMED = {
    *("aac", "ac3", "av1", "dirac", "dts", "eac3", "h261", "h263", "h264", "hevc", "loas", "m4v"),
    *("mlp", "mp3", "mpegvideo", "obu", "truehd", "vc1", "vvc"),
}
CONVERT = "convert it to MP4 with H.264 and AAC: ffmpeg -i IN OUT.mp4"
# The share of frames, or of audio blocks, that may be damaged; a track with more is rejected. In
# 3 s of MPEG-1 or H.264, six flipped bytes damage 4% of the frames, and thirty damage 17%.
DAMAGED = 0.1
CUT_SECONDS, CUT_SHARE = 0.25, 0.02  # a file with more than both missing is truncated
AVI_LIVE = 1 << 30  # the number of frames in the header of an AVI that was written as a live stream
FIRST = 100  # packets to search for the first frame


@dataclass(frozen=True)
class MediaLimits:
    """The longest file in seconds, and the largest frame in pixels (8K), that are decoded."""

    seconds: float = 3600.0
    pixels: int = 7680 * 4320


MEDIA_LIMITS = MediaLimits()


class PictureError(InputError):
    """A video track that cannot be used. The sound of the file may be fine."""


@dataclass(frozen=True)
class VideoTrack:
    """The video track of a file.

    Attributes:
        codec: FFmpeg's name of the codec.
        width: Width of the frames of `video_frames`: upright, with square pixels.
        height: Height of the same frames.
        rotation: The clockwise rotation of the stored frames that makes them upright, in degrees:
            0, 90, 180, or 270.
        rate: Frames per second, None if unknown.
        start: Time of the first frame in seconds on the file's clock.
        seconds: The length according to the header, None if unknown.
    """

    codec: str
    width: int
    height: int
    rotation: int
    rate: float | None
    start: float
    seconds: float | None


@dataclass(frozen=True)
class AudioTrack:
    """The audio track of a file.

    Attributes:
        codec: FFmpeg's name of the codec.
        channels: The number of channels.
        rate: The sample rate in Hz.
        start: Time of the first sample in seconds on the file's clock.
        seconds: The length according to the header, None if unknown.
    """

    codec: str
    channels: int
    rate: int
    start: float
    seconds: float | None


@dataclass(frozen=True)
class MediaInfo:
    """The content of a media file.

    Attributes:
        container: FFmpeg's name of the format.
        seconds: The length according to the header, None if unknown.
        video: The video track, None if there is none. The cover picture of a song is not a video.
        audio: The audio track, None if there is none.
    """

    container: str
    seconds: float | None
    video: VideoTrack | None
    audio: AudioTrack | None


def probe(path: Path) -> MediaInfo:
    """Read the header and the first frame of a media file.

    Raises:
        InputError: If it is not a media file.
    """
    with opened(path) as container:
        video, audio = video_stream(container), audio_stream(container)
        return MediaInfo(
            container=container.format.name,
            seconds=container_seconds(container),
            video=None if video is None else _video_track(container, video),
            audio=None if audio is None else _audio_track(container, audio),
        )


def check_duration(
    path: Path, limits: MediaLimits = MEDIA_LIMITS, info: MediaInfo | None = None
) -> None:
    """Raise InputError if a file is too long according to its header. Nothing is decoded.

    Args:
        path: The media file.
        limits: The limit of seconds.
        info: The result of `probe` for the file, if known.
    """
    if info is not None:
        seconds = info.seconds
    else:
        with opened(path) as container:
            seconds = container_seconds(container)
    if seconds is not None and seconds > limits.seconds:
        raise too_long(path, limits, f" according to its header: {seconds:.0f} s")


def too_long(path: Path, limits: MediaLimits, detail: str = "") -> InputError:
    """Return the error for a file over the limit of seconds."""
    return InputError(
        f"{path}: longer than the limit of {limits.seconds:g} s{detail}; cut it into pieces"
    )


@contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a media file. FFmpeg errors inside the block become an InputError."""
    import av

    if not os.path.isfile(path):  # False also for a name that no file can have
        raise InputError(f"{path} not found, or not a file; check the path")
    if not os.path.getsize(path):
        raise InputError(f"{path}: empty, 0 bytes; copy it again")
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        # The protocol is explicit, so that http:x.mp4 is the name of a file.
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            yield container
    except InputError:
        raise
    except (av.error.FFmpegError, ValueError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: not a video or sound file that FFmpeg can read ({reason}); copy it again, or "
            f"{CONVERT}"
        ) from None


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """Return the first video track that can be decoded, else the first one, else None."""
    from av.stream import Disposition

    no_video = Disposition.attached_pic | Disposition.timed_thumbnails
    found = [s for s in container.streams.video if not s.disposition & no_video]
    return _first_decodable(found)


def audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """Return the first audio track that can be decoded, else the first one, else None."""
    return _first_decodable(list(container.streams.audio))


def _first_decodable(streams: list[av.stream.Stream]) -> av.stream.Stream | None:
    decodable = [s for s in streams if s.codec_context is not None]
    return next(iter([*decodable, *streams]), None)


def codec_name(stream: av.stream.Stream) -> str:
    """Return FFmpeg's name of a track's codec."""
    return "unknown" if stream.codec_context is None else stream.codec_context.codec.canonical_name


def described(stream: av.stream.Stream) -> str:
    """Describe a track in an error message, for example "h264 video in mov"."""
    return f"{codec_name(stream)} {stream.type} in {stream.container.format.name.split(',')[0]}"


def container_seconds(container: av.container.InputContainer) -> float | None:
    """Return the length of a file according to its header, None if unknown."""
    if not container.duration or _guessed(container):
        return None
    tracks = [stream_seconds(s) or 0.0 for s in container.streams.video]
    return max([container.duration / 1_000_000, *tracks])


def stream_seconds(stream: av.stream.Stream) -> float | None:
    """Return the length of a track according to the header, None if unknown."""
    match stream.metadata.get("DURATION", "").split(":"):  # Matroska's, 00:00:01.000000000
        case [hours, minutes, seconds]:
            with suppress(ValueError):
                end = 3600 * float(hours) + 60 * float(minutes) + float(seconds)
                return end - float((stream.start_time or 0) * stream.time_base)
    if not stream.duration or _guessed(stream.container):
        return None
    seconds = float(stream.duration * stream.time_base)
    if stream.container.format.name == "avi" and stream.type == "video" and stream.average_rate:
        # FFmpeg shortens the length of a truncated file, but not the number of frames.
        return max(seconds, float(stream.frames / stream.average_rate))
    return seconds


def _guessed(container: av.container.InputContainer) -> bool:
    """Return whether the header has no length, so that FFmpeg guesses it from a bit rate."""
    tracks = [*container.streams.video, *container.streams.audio]
    if container.format.name == "mp3":
        return not any(tag in _head(container) for tag in (b"Xing", b"Info", b"VBRI"))
    return (
        container.format.name in UNTIMED
        # Its header stores lengths of tracks as tags only. If FFmpeg sets others, it guesses.
        or (
            container.format.name == "matroska,webm"
            and any(t.duration for t in tracks)
            and not any("DURATION" in t.metadata for t in tracks)
        )
        or any(t.frames == AVI_LIVE for t in tracks)
    )


def truncation(
    container: av.container.InputContainer, stream: av.stream.Stream, seconds: float, end: float
) -> str | None:
    """Describe how a file is truncated; None if it is as long as its header says.

    Args:
        container: The open file.
        stream: The track that was read.
        seconds: The length of the track as read.
        end: The end of the last packet of any track, in seconds on the file's clock.
    """
    share = _present_share(container)
    end += (container.start_time or 0) / 1_000_000  # the header counts from its own zero
    for found, declared in (
        (seconds, stream_seconds(stream) or 0.0),
        (end, container_seconds(container) or 0.0),
        (seconds, seconds / share),
    ):
        if declared - found > max(CUT_SECONDS, CUT_SHARE * declared):
            return f"truncated, {found:.1f} s of the {declared:.1f} s in its header"
    return None


def _present_share(container: av.container.InputContainer) -> float:
    """Return how much of the size in its header a WAV, W64 or CAF file has: 0 to 1.

    FFmpeg reads these files to their end and ignores the size in the header.
    """
    head = _head(container)
    promised = 0
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        promised = int.from_bytes(head[4:8], "little") + 8
        if promised >= 1 << 31:  # unknown while it was written, or an overflow
            promised = 0
    elif head[:4] == b"RF64":
        promised = int.from_bytes(head[20:28], "little") + 8
    elif head[:4] == b"riff":
        promised = int.from_bytes(head[16:24], "little")
    elif head[:4] == b"caff":
        at = 8
        while head[at : at + 4] not in (b"data", b""):
            at += 12 + max(0, int.from_bytes(head[at + 4 : at + 12], "big", signed=True))
        promised = at + 12 + int.from_bytes(head[at + 4 : at + 12], "big", signed=True)
    return min(1.0, container.size / promised) if 0 < promised < 1 << 62 else 1.0


def _head(container: av.container.InputContainer) -> bytes:
    """Return the first 64 KiB of a file."""
    with open(container.name.removeprefix("file:"), "rb") as file:
        return file.read(1 << 16)


class Clock:
    """Converts time stamps of a track to seconds on the file's clock.

    The first track of the file begins at 0.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.stream.Stream) -> None:
        base, zero = stream.time_base, Fraction(container.start_time or 0, 1_000_000)
        # The same as fractions would give, but much faster: this runs for every packet and frame.
        self._tick = base.numerator, base.denominator
        self._scale = base.numerator * zero.denominator
        self._shift = zero.numerator * base.denominator
        self._divisor = base.denominator * zero.denominator
        self._timed = container.format.name not in UNTIMED

    def at(self, stamp: int | None) -> float | None:
        """Return the time of a stamp, None if it is missing."""
        if stamp is None or not self._timed:
            return None
        return round((stamp * self._scale - self._shift) / self._divisor, 6)

    def span(
        self, stamp: int | None, duration: int | None, before: float, usual: float
    ) -> tuple[float, float]:
        """Return the start and end of a packet or frame.

        Args:
            stamp: Its time stamp, None if missing.
            duration: Its duration, None or 0 if missing.
            before: The end of the previous one, used as the start if the stamp is missing.
            usual: The length in seconds if the duration is missing.
        """
        start = self.at(stamp)
        start = before if start is None else start
        numerator, denominator = self._tick
        return start, start + ((duration or 0) * numerator / denominator or usual)


class Packets:
    """Iterates over the packets of a track, then yields None to flush its decoder.

    Iteration ends where reading fails. Do not pass empty packets to a decoder: it would take them
    for the end.

    Attributes:
        end: End of the last packet so far of any track, in seconds on the file's clock.
        error: The error that ended reading, None if there was none.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.stream.Stream) -> None:
        self._container = container
        self._stream = stream
        self.end = 0.0
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[av.Packet | None]:
        import av

        tracks = [*self._container.streams.video, *self._container.streams.audio]
        clocks = {track.index: Clock(self._container, track) for track in tracks}
        ends = dict.fromkeys(clocks, 0.0)
        try:
            for packet in self._container.demux(tracks):
                if packet.size or packet.pts is not None:  # else a request to flush
                    n = packet.stream_index
                    _, ends[n] = clocks[n].span(packet.pts, packet.duration, ends[n], 0.0)
                    self.end = max(self.end, ends[n])
                    if n == self._stream.index:
                        yield packet
        # PyAV raises IndexError at the end of a damaged file in which a track appears late.
        except (av.error.FFmpegError, IndexError) as error:
            self.error = error
        yield None


def square_size(stream: av.VideoStream) -> tuple[int, int]:
    """Return width and height of the stored frames in square pixels; 0 for an unknown codec."""
    if stream.codec_context is None:
        return 0, 0
    ratio = float(stream.sample_aspect_ratio or 1)
    if not 0.25 < ratio < 4:  # not plausible
        ratio = 1.0
    return round(stream.width * ratio), stream.height


def orientation(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """Return (a, b, c, d), each -1, 0, or 1: pixel (x, y) is shown at (a x + c y, b x + d y)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(data, np.int32).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return -1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1
    return 0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0


def _video_track(container: av.container.InputContainer, stream: av.VideoStream) -> VideoTrack:
    width, height = square_size(stream)
    clock = Clock(container, stream)
    start = clock.at(stream.start_time) or 0.0
    rotation = 0
    rate = stream.average_rate or stream.guessed_rate
    frame = _first_frame(container, stream)
    if frame is not None:
        start, _ = clock.span(frame.pts, frame.duration, start, 0.0)
        a, b, _, _ = orientation(frame)
        rotation = {(1, 0): 0, (0, 1): 90, (-1, 0): 180, (0, -1): 270}[a, b]
        if b:
            width, height = height, width
    return VideoTrack(
        codec=codec_name(stream),
        width=width,
        height=height,
        rotation=rotation,
        rate=float(rate) if rate else None,
        start=start,
        seconds=stream_seconds(stream),
    )


def _first_frame(
    container: av.container.InputContainer, stream: av.VideoStream
) -> av.VideoFrame | None:
    import av

    if stream.codec_context is None:
        return None
    stream.thread_type = "NONE"
    stream.codec_context.options = {"max_pixels": str(MEDIA_LIMITS.pixels)}
    for _, packet in zip(range(FIRST), Packets(container, stream), strict=False):
        with suppress(av.error.FFmpegError):
            if packet is None or packet.size:
                for frame in stream.codec_context.decode(packet):
                    return frame
    return None


def _audio_track(container: av.container.InputContainer, stream: av.AudioStream) -> AudioTrack:
    context = stream.codec_context
    return AudioTrack(
        codec=codec_name(stream),
        channels=0 if context is None else context.channels,
        rate=0 if context is None else context.sample_rate,
        start=Clock(container, stream).at(stream.start_time) or 0.0,
        seconds=stream_seconds(stream),
    )
