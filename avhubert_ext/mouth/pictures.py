"""The moving picture of any video: upright RGB frames, 25 a second, around damage."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from avhubert_ext.data.video import FPS
from avhubert_ext.mouth.container import (
    CONVERT,
    DAMAGED,
    LIMITS,
    Clock,
    Limits,
    Packets,
    PictureError,
    codec_name,
    cut_short,
    opened,
    orientation,
    square_size,
    too_long,
    video_stream,
)

if TYPE_CHECKING:
    import av

EARLY = 0.25  # s; a frame that is late for longer was frozen


@dataclass
class Damage:
    """What was met while decoding, filled in by `video_frames` as it runs.

    frames: of the file, at its own rate; damaged: those of them that did not decode whole, in
    whose place the nearest whole one is shown; affected: whole ones predicted from a damaged one,
    which are shown with what smear that leaves; start: when the first frame is shown, in seconds
    on the file's clock.
    """

    frames: int = 0
    damaged: int = 0
    affected: int = 0
    start: float = 0.0


@dataclass(frozen=True)
class _Shown:
    """A frame between two times in seconds on the file's clock; None in place of a damaged one."""

    start: float
    end: float
    frame: av.VideoFrame | None


def video_frames(
    path: Path, limits: Limits = LIMITS, damage: Damage | None = None
) -> Iterator[np.ndarray]:
    """Frames as RGB, uint8 [H, W, 3], upright, with square pixels, 25 a second.

    Any rate, constant or not, becomes 25 by the frames' time stamps: number k is the frame whose
    stamp is nearest to k/25 s after the first one, the earlier of two. So many frames come as fit
    into the video's length, rounded. Successive ones may share memory; copy before writing.

    A damaged frame is replaced by the nearest whole one, and counted in `damage`. Raises
    PictureError for a video track that is missing, cut short, in an unknown codec, of frames over
    the limit, or with more than a tenth of its frames damaged; InputError for what is no media
    file, or over the limit of seconds.
    """
    damage = Damage() if damage is None else damage
    with opened(path) as container:
        stream = video_stream(container)
        if stream is None:
            raise PictureError(f"{path}: no video track; give a file with a moving picture")
        name = f"{codec_name(stream)} in {container.format.name}"
        if stream.codec_context is None:
            raise PictureError(f"{path}: its video track ({name}) has no decoder; {CONVERT}")
        if stream.width * stream.height > limits.pixels:
            raise PictureError(
                f"{path}: frames are {stream.width}x{stream.height}, over the limit of "
                f"{limits.pixels} pixels; make a smaller copy"
            )
        stream.thread_type = "NONE"  # workers fill the cores
        stream.codec_context.options = {
            "max_pixels": str(limits.pixels),
            "err_detect": "crccheck",  # with "explode" more would be lost, and no more found
        }
        upright = _Upright(stream)
        decoded = _checked(path, container, stream, limits, damage)
        for frame in _at_25_fps(decoded):
            yield upright.rgb(frame)


def _at_25_fps(decoded: Iterator[_Shown]) -> Iterator[av.VideoFrame]:
    """For each 25th of a second from the first frame on the whole frame that is nearest."""
    due: deque[av.VideoFrame] = deque()  # chosen, but the video may end before their turn
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
    limits: Limits,
    damage: Damage,
) -> Iterator[_Shown]:
    """The frames of a track; raises PictureError for one with much damage, or cut short."""
    packets = Packets(container, stream)
    first = end = None
    for shown in _decoded(packets, stream, container, damage):
        first = shown.start if first is None else first
        end = shown.end if end is None else end
        if shown.start - first > limits.seconds:
            raise too_long(path, limits)
        if shown.frame is not None and shown.start < end - 1:
            raise PictureError(
                f"{path}: its time stamps go back after {end - first:.1f} s; convert it, or cut it "
                "there"
            )
        end = max(end, shown.end)
        yield shown
    share = damage.damaged / max(1, damage.frames)
    if damage.frames == damage.damaged:
        raise PictureError(
            f"{path}: no frame of its video track ({codec_name(stream)} in "
            f"{container.format.name}) decodes; copy it again, or {CONVERT}"
        )
    if damage.damaged > max(1, DAMAGED * damage.frames):
        raise PictureError(
            f"{path}: {damage.damaged} of {damage.frames} frames are damaged, {share:.0%}, over "
            f"the limit of {DAMAGED:.0%}; copy it again"
        )
    cut = cut_short(container, stream, end - first, packets.end)
    if cut is not None:
        raise PictureError(f"{path}: {cut}; copy it again")


def _decoded(
    packets: Packets,
    stream: av.VideoStream,
    container: av.container.InputContainer,
    damage: Damage,
) -> Iterator[_Shown]:
    """The frames of a track, whole ones in order of time."""
    import av

    rate = float(stream.average_rate or stream.guessed_rate or FPS)
    time = Clock(container, stream)
    no_key = True  # decoded: until one is, frames are predicted from nothing
    smeared = False
    end = 0.0
    for packet in packets:
        frames: list[av.VideoFrame | None] = []
        if packet is not None and not packet.size:  # repeats the frame before, as in Theora
            start, end = time.span(packet, end, 1 / rate)
            yield _Shown(start, end, None)
            continue
        try:
            frames += stream.codec_context.decode(packet)
        except av.error.FFmpegError:
            frames += [None] if packet is not None else []
        for frame in frames:
            start, end = time.span(packet if frame is None else frame, end, 1 / rate)
            if packet.is_keyframe if frame is None else frame.key_frame:
                no_key, smeared = frame is None, False
            damaged = frame is None or frame.is_corrupt or no_key
            damage.frames += 1
            damage.damaged += damaged
            damage.affected += smeared and not damaged
            smeared = smeared or damaged
            if not damaged and damage.frames - damage.damaged == 1:
                damage.start = start
            yield _Shown(start, end, None if damaged else frame)


class _Upright:
    """Frames of a stream as RGB with square pixels, turned as the file says."""

    def __init__(self, stream: av.VideoStream) -> None:
        import av

        # One for all frames: the frames' own would set up the conversion anew each time.
        self._reformat = av.video.reformatter.VideoReformatter().reformat
        self._width, self._height = square_size(stream)
        self._last: tuple[av.VideoFrame | None, np.ndarray | None] = None, None

    def rgb(self, frame: av.VideoFrame) -> np.ndarray:
        if frame is not self._last[0]:
            self._last = frame, self._convert(frame)
        return self._last[1]

    def _convert(self, frame: av.VideoFrame) -> np.ndarray:
        # All frames of one size, even if the stream changes its own on the way.
        image = self._reformat(
            frame, width=self._width, height=self._height, format="rgb24", threads=1
        ).to_ndarray()
        a, b, c, d = orientation(frame)
        if b:
            image = cv2.transpose(image)
            a, d = c, b
        if a > 0 and d > 0:
            return image
        return cv2.flip(image, -1 if a < 0 and d < 0 else 1 if a < 0 else 0)
