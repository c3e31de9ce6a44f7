"""Read the sound of any media file as int16, mono, 16 kHz, placed on the file's clock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avhubert_ext.data.audio import SAMPLE_RATE, SAMPLES_PER_FRAME
from avhubert_ext.data.container import (
    CONVERT,
    DAMAGED,
    MEDIA_LIMITS,
    Clock,
    MediaLimits,
    Packets,
    audio_stream,
    codec_name,
    container_seconds,
    described,
    opened,
    too_long,
    truncation,
)
from avhubert_ext.errors import InputError

if TYPE_CHECKING:
    import av

GAP = 0.04  # s; a shorter gap between two blocks is jitter of their time stamps
JUMP = 1.0  # s; time stamps that are off by more are wrong
# Codecs with a checksum per block. With others, strict decoding would lose sound that players play.
CHECKED = {"ac3", "eac3", "flac", "tta", "wavpack"}
CANCELED = 0.1  # of the channels' mean energy (-10 dB); a weaker mix means that they cancel


@dataclass(frozen=True)
class Sound:
    """The sound of a file.

    Attributes:
        start: Time of the first sample in seconds on the file's clock.
        samples: int16 [N], mono, 16 kHz.
        notes: What a user should know, for example that the file is truncated.
    """

    start: float
    samples: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Soundtrack:
    """The sound that belongs to the frames of a video.

    Attributes:
        samples: int16 [frames * 640], starting at the first frame; silent where there is no sound.
        before: Seconds of sound before the first frame, not in `samples`.
        after: Seconds of sound after the last frame, not in `samples`.
    """

    samples: np.ndarray
    before: float
    after: float


def read_sound(path: Path, limits: MediaLimits = MEDIA_LIMITS) -> Sound:
    """Read the sound of an audio or video file.

    The channels are mixed; if they cancel each other out, the louder one is used. Blocks are placed
    by their time stamps, with silence in place of missing ones.

    Args:
        path: The media file.
        limits: The longest file to accept.

    Raises:
        InputError: If the file has no sound, is too long, or if more than a tenth of its audio
            blocks are damaged.
    """
    with opened(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise InputError(f"{path}: no audio track; give a file with sound")
        if stream.codec_context is None:
            raise InputError(f"{path}: no decoder for {described(stream)}; {CONVERT}")
        decoded = _decoded(path, container, stream, limits)
        samples, note = _mixed(decoded.channels)
        return Sound(decoded.start, samples, (*decoded.notes, *([note] if note else [])))


def read_audio(path: Path, limits: MediaLimits = MEDIA_LIMITS) -> np.ndarray:
    """Read the samples of a file, int16 [N] at 16 kHz; see `read_sound`."""
    return read_sound(path, limits).samples


def beside(sound: Sound, start: float, frames: int) -> Soundtrack:
    """Cut and pad the sound of a file to the frames of its video.

    Args:
        sound: The sound.
        start: Time of the first frame in seconds on the file's clock.
        frames: The number of frames of `video_frames`.
    """
    lead = round((sound.start - start) * SAMPLE_RATE)
    fitted = np.zeros(frames * SAMPLES_PER_FRAME, np.int16)
    first, last = max(0, -lead), max(0, min(len(sound.samples), len(fitted) - lead))
    inside = sound.samples[first:last]
    fitted[first + lead :][: len(inside)] = inside
    return Soundtrack(
        samples=fitted,
        before=min(first, len(sound.samples)) / SAMPLE_RATE,
        after=(len(sound.samples) - last) / SAMPLE_RATE,
    )


def _mixed(channels: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Mix one or two channels, int16 [C, N] -> [N]; also returns a note if they cancel out."""
    if len(channels) == 1:
        return channels[0], None
    left, right = channels
    mix = ((left.astype(np.int32) + right) >> 1).astype(np.int16)
    energy = [_energy(left), _energy(right)]
    if _energy(mix) < CANCELED * sum(energy) / 2:
        louder = channels[int(np.argmax(energy))]
        return louder, "the channels cancel each other out; the louder one is used"
    return mix, None


def _energy(samples: np.ndarray) -> float:
    """Return the sum of squares of int16 [N], computed in blocks to save memory."""
    blocks = (samples[n : n + 1_000_000].astype(np.float64) for n in range(0, len(samples), 10**6))
    return sum(float(block @ block) for block in blocks)


@dataclass(frozen=True)
class _Decoded:
    """A track: its start on the file's clock, one or two channels int16 [C, N], and notes."""

    start: float
    channels: np.ndarray
    notes: list[str]


def _decoded(
    path: Path, container: av.container.InputContainer, stream: av.AudioStream, limits: MediaLimits
) -> _Decoded:
    import av

    codec = stream.codec_context
    codec.options = {"err_detect": "crccheck+explode"} if codec_name(stream) in CHECKED else {}
    clock, packets = Clock(container, stream), Packets(container, stream)
    latest = min(container_seconds(container) or limits.seconds, limits.seconds)
    blocks = _Blocks("mono" if codec.channels == 1 else "stereo")
    start = end = None
    count = lost = 0
    missing = 0.0
    jumps = after_loss = False
    for packet in packets:
        if packet is not None and not packet.size:
            continue
        try:
            frames = codec.decode(packet)
        except av.error.FFmpegError:
            frames, after_loss = [], True
            lost += packet is not None
        count += packet is not None
        for frame in frames:
            time, _ = clock.span(frame.pts, 0, end or 0.0, 0.0)
            if start is None:
                start = end = time
            gap = time - end
            if gap > (0.0 if after_loss else GAP) and time <= latest + 1:
                blocks.silence(gap)
                missing, end = missing + gap, time
            elif abs(gap) > JUMP:
                jumps, end = True, time
            after_loss = False
            end += blocks.sound(frame)
            if blocks.seconds > limits.seconds:
                raise too_long(path, limits)
    if start is None:
        raise InputError(
            f"{path}: the sound is empty or cannot be decoded ({described(stream)}); copy it "
            f"again, or {CONVERT}"
        )
    if lost > max(1, DAMAGED * count):
        raise InputError(
            f"{path}: {lost} of {count} audio blocks are damaged, {lost / count:.0%}, over "
            f"the limit of {DAMAGED:.0%}; copy it again"
        )
    channels = blocks.joined()
    missing_end = truncation(container, stream, channels.shape[1] / SAMPLE_RATE, packets.end)
    notes = [] if missing_end is None else [f"the file is {missing_end}"]
    if lost:
        notes.append(f"damaged audio blocks, left silent: {lost} of {count}")
    elif missing >= GAP:
        notes.append(f"{missing:.2f} s of sound are missing inside the file and left silent")
    if jumps:
        notes.append("the time stamps of the sound jump; the audio blocks are joined without a gap")
    return _Decoded(start, channels, notes)


class _Blocks:
    """Joins audio blocks of any rate and format into int16 [C, N] at 16 kHz."""

    def __init__(self, layout: str) -> None:
        self._layout = layout
        self._form: tuple | None = None
        self._resampler: av.AudioResampler | None = None
        self._done: list[np.ndarray] = []
        self.seconds = 0.0

    def sound(self, frame: av.AudioFrame) -> float:
        """Append a block and return its length in seconds."""
        import av

        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form:
            self._flush()
            self._form = form
            self._resampler = av.AudioResampler("s16p", self._layout, SAMPLE_RATE)
        self._done += [f.to_ndarray() for f in self._resampler.resample(frame)]
        seconds = frame.samples / frame.sample_rate
        self.seconds += seconds
        return seconds

    def silence(self, seconds: float) -> None:
        """Append silence."""
        self._flush()
        channels = 1 if self._layout == "mono" else 2
        self._done.append(np.zeros((channels, round(seconds * SAMPLE_RATE)), np.int16))
        self.seconds += seconds

    def joined(self) -> np.ndarray:
        """Return everything so far, int16 [C, N]."""
        self._flush()
        return np.concatenate(self._done, axis=1)

    def _flush(self) -> None:
        if self._resampler is not None:
            self._done += [f.to_ndarray() for f in self._resampler.resample(None)]
        self._resampler = self._form = None
