"""Decode the frames of any video: upright RGB at 25 frames/s, with damaged frames replaced."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avhubert_ext.data.container import (
    CONVERT,
    DAMAGED,
    MEDIA_LIMITS,
    Clock,
    MediaLimits,
    Packets,
    PictureError,
    container_seconds,
    described,
    opened,
    orientation,
    square_size,
    too_long,
    truncation,
    video_stream,
)
from avhubert_ext.data.rates import FPS
from avhubert_ext.errors import InputError

if TYPE_CHECKING:
    import av

JUMP = 1.0  # s; time stamps that go back, or exceed the file's length, by more are wrong
EARLY = 0.25  # s; a frame is shown early by at most this, however long the freeze before it


@dataclass
class Damage:
    """The damage found while decoding, updated by `video_frames` as it runs.

    Attributes:
        frames: Frames in the file, at its own rate.
        damaged: Frames that were lost or decoded incompletely, each replaced by the nearest
            intact frame.
        affected: Frames predicted from a damaged one, which are shown and may be smeared.
        start: Time of the first frame in seconds on the file's clock.
    """

    frames: int = 0
    damaged: int = 0
    affected: int = 0
    start: float = 0.0


@dataclass(frozen=True)
class _Shown:
    """A frame and its start and end in seconds on the file's clock.

    Attributes:
        start: Start of the frame.
        end: End of the frame.
        frame: None if the previous frame is repeated, or if the frame is lost.
        is_key: Whether it is a key frame.
        lost: Whether it is lost.
    """

    start: float
    end: float
    frame: av.VideoFrame | None
    is_key: bool = False
    lost: bool = False


def video_frames(
    path: Path, limits: MediaLimits = MEDIA_LIMITS, damage: Damage | None = None
) -> Iterator[np.ndarray]:
    """Yield the frames of a video, upright, with square pixels, at 25 frames/s.

    Any rate, constant or not, is converted by the time stamps: number k is the frame whose stamp
    is nearest to k/25 s after the first one (the earlier of two; a frame after a freeze is shown
    at most 0.25 s early). Their number is 25 times the length of the video in seconds, rounded.
    A damaged frame is replaced by the nearest intact one.

    Args:
        path: The video file.
        limits: The longest video and the largest frame to accept.
        damage: Updated with the damage found.

    Yields:
        RGB uint8 [H, W, 3]. Successive frames may share memory: copy one before writing to it.

    Raises:
        PictureError: If the video track is missing, truncated, in an unknown codec, over the limit
            of pixels, or if more than a tenth of its frames are damaged.
        InputError: If it is not a media file, or is over the limit of seconds.
    """
    import av

    damage = Damage() if damage is None else damage
    with opened(path) as container:
        # With "explode" more frames would be lost, and no more damage would be found.
        stream = _opened_track(path, container, limits, err_detect="crccheck")
        upright = _Upright(stream)
        decoded = _checked(path, container, stream, limits, damage)
        for frame in _at_25_fps(decoded):
            try:
                image = upright.rgb(frame)
            except (av.error.FFmpegError, ValueError) as error:
                raise PictureError(
                    f"{path}: {described(stream)} cannot be converted to RGB ({error}); {CONVERT}"
                ) from None
            yield image


@dataclass(frozen=True)
class IntactVideo:
    """All frames of an undamaged video track.

    Attributes:
        images: The converted frames, in order.
        times: The time of each frame in seconds, None where the file has no time stamps.
        rate: Frames per second according to the header.
        tick: The resolution of `times` in seconds.
    """

    images: list[np.ndarray]
    times: list[float | None]
    rate: float
    tick: float


def intact_video(path: Path | str, convert: Callable[[np.ndarray], np.ndarray]) -> IntactVideo:
    """Decode every frame of a video once, as stored: no resampling, no rotation, no repair.

    Args:
        path: The video file.
        convert: Applied to each frame, BGR uint8 [H, W, 3], as soon as it is decoded.

    Raises:
        InputError: If the file is missing, has no video, or does not decode completely.
    """
    import av

    images, stamps = [], []
    with opened(path) as container:
        # Without "explode", FFmpeg conceals damage without reporting it.
        stream = _opened_track(path, container, MEDIA_LIMITS, err_detect="explode")
        packets = Packets(container, stream)
        # Shared by all frames: a reformatter per frame would set up the conversion every time.
        reformat = av.video.reformatter.VideoReformatter().reformat
        size = {"width": stream.width, "height": stream.height}
        for shown in _decoded(packets, stream, container):
            if shown.lost:
                raise InputError(
                    f"{path}: cannot be decoded (damaged at {shown.start:.2f} s); copy it again"
                )
            if shown.frame is not None:
                images.append(convert(reformat(shown.frame, format="bgr24", **size).to_ndarray()))
                stamps.append(shown.frame.pts)
        # A bare H.264 stream has no time stamps, and its average rate is FFmpeg's default.
        rate = float(stream.guessed_rate or stream.average_rate or FPS)
        tick = float(stream.time_base or 0)
    if packets.error is not None:
        reason = getattr(packets.error, "strerror", None) or packets.error
        raise InputError(f"{path}: cannot be decoded ({reason}); copy it again")
    if not images:
        raise InputError(f"{path}: no video frames; make it or copy it again")
    times = [None if stamp is None else stamp * tick for stamp in stamps]
    return IntactVideo(images, times, rate, tick)


def _opened_track(
    path: Path | str, container: av.container.InputContainer, limits: MediaLimits, err_detect: str
) -> av.VideoStream:
    """The video track of a file, ready to decode."""
    stream = video_stream(container)
    if stream is None:
        raise PictureError(f"{path}: no video track; give a video file")
    if stream.codec_context is None:
        raise PictureError(f"{path}: no decoder for {described(stream)}; {CONVERT}")
    if stream.width * stream.height > limits.pixels:
        raise PictureError(
            f"{path}: frames are {stream.width}x{stream.height}, over the limit of "
            f"{limits.pixels} pixels; make a smaller copy"
        )
    stream.thread_type = "NONE"  # the worker processes fill the cores
    stream.codec_context.options = {"max_pixels": str(limits.pixels), "err_detect": err_detect}
    return stream


def _at_25_fps(decoded: Iterator[_Shown]) -> Iterator[av.VideoFrame]:
    """Yield the nearest intact frame for every 1/25 s, starting at the first frame."""
    due: deque[av.VideoFrame] = (
        deque()
    )  # chosen frames; dropped if the video ends before their time slot
    chosen = passed = 0
    first = before = None
    end = 0.0
    for shown in decoded:
        end = max(end, shown.end)
        if shown.frame is None:
            continue
        if before is None:
            first, before = shown.start, shown
            continue
        gap = max(0.0, shown.start - before.start)
        change = before.start - first + max(gap / 2, gap - EARLY)
        while chosen <= change * FPS + 1e-6:
            due.append(before.frame)
            chosen += 1
        while due and (passed + 0.5) / FPS < shown.start - first:
            yield due.popleft()
            passed += 1
        before = shown
    if before is None:
        return
    total = max(1, math.ceil((end - first) * FPS - 0.5 - 1e-6))
    due.extend([before.frame] * (total - chosen))
    for _ in range(passed, total):
        yield due.popleft()


def _checked(
    path: Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    limits: MediaLimits,
    damage: Damage,
) -> Iterator[_Shown]:
    """Yield the frames of a track; PictureError if it is truncated or has too much damage."""
    packets = Packets(container, stream)
    latest = container_seconds(container) or limits.seconds
    first = end = None
    for shown in _assessed(_decoded(packets, stream, container), damage):
        first = shown.start if first is None else first
        end = shown.end if end is None else end
        if shown.frame is None and abs(shown.start - end) > JUMP:
            continue  # its time stamp is damaged, too
        if shown.start - first > limits.seconds:
            raise too_long(path, limits)
        if shown.start < end - JUMP or shown.start > max(end, latest) + JUMP:
            raise PictureError(
                f"{path}: the time stamps jump from {end:.1f} to {shown.start:.1f} s; convert the "
                "file, or cut it there"
            )
        end = max(end, shown.end)
        yield shown
    if damage.frames == damage.damaged:
        raise PictureError(
            f"{path}: no frame can be decoded ({described(stream)}); copy it again, or {CONVERT}"
        )
    if damage.damaged > max(1, DAMAGED * damage.frames):
        raise PictureError(
            f"{path}: {damage.damaged} of {damage.frames} frames are damaged, "
            f"{damage.damaged / damage.frames:.0%}, over the limit of {DAMAGED:.0%}; copy it again"
        )
    missing = truncation(container, stream, end - first, packets.end)
    if missing is not None:
        raise PictureError(f"{path}: {missing}; copy it again")


def _assessed(shown: Iterator[_Shown], damage: Damage) -> Iterator[_Shown]:
    """Drop damaged frames, and count all of them in `damage`."""
    no_key = True  # the reference is missing before the first key frame, and after a lost one
    smeared = False
    for item in shown:
        if item.frame is None and not item.lost:
            yield item
            continue
        if item.is_key:
            no_key, smeared = item.lost, False
        damaged = item.lost or item.frame.is_corrupt or no_key
        damage.frames += 1
        damage.damaged += damaged
        damage.affected += smeared and not damaged
        smeared = smeared or damaged
        if not damaged and damage.frames - damage.damaged == 1:
            damage.start = item.start
        yield replace(item, frame=None) if damaged else item


def _decoded(
    packets: Packets, stream: av.VideoStream, container: av.container.InputContainer
) -> Iterator[_Shown]:
    """Decode the packets of a track, in order of time.

    A packet without a frame counts as a lost frame, whether the decoder reports an error or not,
    except at the beginning, where decoders wait for a key frame.
    """
    import av

    clock = Clock(container, stream)
    duration = 1 / float(stream.average_rate or stream.guessed_rate or FPS)
    in_order = container.format.name != "avi"  # its stamps are in the order of decoding
    waiting: list[tuple[int, bool, bool]] = []  # heap of (stamp, is key frame, failed)
    began = False
    end = 0.0
    for packet in packets:
        if packet is not None and not packet.size:  # repeats the previous frame, as in Theora
            start, end = clock.span(packet.pts, packet.duration, end, duration)
            yield _Shown(start, end, None)
            continue
        failed, frames = False, []
        try:
            frames = stream.codec_context.decode(packet)
        except av.error.FFmpegError:
            failed = True
        if packet is not None and not packet.is_discard:
            if clock.at(packet.pts) is not None and (in_order or not failed):
                heapq.heappush(waiting, (packet.pts, packet.is_keyframe, failed))
            elif failed:
                start, end = clock.span(packet.pts, packet.duration, end, duration)
                yield _Shown(start, end, None, packet.is_keyframe, lost=True)
        for frame in frames:
            stamp = frame.pts
            if not in_order and waiting:
                stamp = waiting[0][0]  # the decoder returns frames in order of time
            while waiting and stamp is not None and waiting[0][0] <= stamp:
                at, is_key, failed = heapq.heappop(waiting)
                if at < stamp and (began or failed):
                    start, end = clock.span(at, 0, end, duration)
                    yield _Shown(start, end, None, is_key, lost=True)
            began = True
            start, end = clock.span(stamp, frame.duration, end, duration)
            yield _Shown(start, end, frame, frame.key_frame)
    for at, is_key, _ in sorted(waiting):
        start, end = clock.span(at, 0, end, duration)
        yield _Shown(start, end, None, is_key, lost=True)


class _Upright:
    """Converts the frames of a track to upright RGB with square pixels."""

    def __init__(self, stream: av.VideoStream) -> None:
        import av

        # Shared by all frames: a reformatter per frame would set up the conversion every time.
        self._reformat = av.video.reformatter.VideoReformatter().reformat
        self._width, self._height = square_size(stream)
        self._last: tuple[av.VideoFrame | None, np.ndarray | None] = None, None

    def rgb(self, frame: av.VideoFrame) -> np.ndarray:
        if frame is not self._last[0]:
            self._last = frame, self._convert(frame)
        return self._last[1]

    def _convert(self, frame: av.VideoFrame) -> np.ndarray:
        # All frames get the same size, even if the size changes within the stream.
        image = self._reformat(
            frame, width=self._width, height=self._height, format="rgb24", threads=1
        ).to_ndarray()
        a, b, c, d = orientation(frame)
        if (a, d) == (1, 1):
            return image
        import cv2

        if b:
            image = cv2.transpose(image)
            a, d = c, b
        if a > 0 and d > 0:
            return image
        return cv2.flip(image, -1 if a < 0 and d < 0 else 1 if a < 0 else 0)
