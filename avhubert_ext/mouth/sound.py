"""The sound of any media file: int16, mono, 16 kHz, placed by the file's clock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avhubert_ext.data.audio import SAMPLE_RATE, SAMPLES_PER_FRAME
from avhubert_ext.errors import InputError
from avhubert_ext.mouth.container import (
    CONVERT,
    LIMITS,
    Limits,
    audio_stream,
    codec_name,
    opened,
    too_long,
)

if TYPE_CHECKING:
    import av

GAP = 0.1  # s; a shorter one between two blocks is jitter of their time stamps
CANCELED = 0.1  # of the channels' mean energy; a weaker sum of them has canceled (10 dB)


@dataclass(frozen=True)
class Sound:
    """The sound of a file.

    start: of the first sample, in seconds on the file's clock; samples: int16 [N], mono, 16 kHz;
    notes: what a user should know of it, such as that the file is cut short.
    """

    start: float
    samples: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Soundtrack:
    """The sound beside the frames of a video.

    samples: int16 [frames * 640], from the first frame on, silence where there is no sound;
    before, after: seconds of sound before the first frame and after the last, not in `samples`.
    """

    samples: np.ndarray
    before: float
    after: float


def read_sound(path: Path, limits: Limits = LIMITS) -> Sound:
    """The sound of a sound or video file.

    Its channels are mixed; where the mix cancels out, the louder channel is used. Blocks are placed
    by their time stamps, with silence where one is missing. Raises InputError for a file without
    sound, damaged, or over the limit.
    """
    with opened(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise InputError(f"{path}: no audio track; give a file with sound")
        name = f"{codec_name(stream)} in {container.format.name}"
        if stream.codec_context is None:
            raise InputError(f"{path}: its audio track ({name}) has no decoder; {CONVERT}")
        start, channels = _decode_audio(path, container, stream, limits)
        samples, note = _mixed(channels)
        return Sound(start, samples, () if note is None else (note,))


def read_audio(path: Path, limits: Limits = LIMITS) -> np.ndarray:
    """The samples of `read_sound`."""
    return read_sound(path, limits).samples


def beside(sound: Sound, start: float, frames: int) -> Soundtrack:
    """The sound beside so many frames of `video_frames`, the first of them at `start` seconds."""
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
    """Int16 [C, N] of one or two channels -> [N], and a note if they cancel out."""
    if len(channels) == 1:
        return channels[0], None
    left, right = channels
    mix = ((left.astype(np.int32) + right) >> 1).astype(np.int16)
    energy = [_energy(left), _energy(right)]
    if _energy(mix) < CANCELED * sum(energy) / 2:
        louder = channels[int(np.argmax(energy))]
        return louder, "its channels cancel each other out; the louder one is used"
    return mix, None


def _energy(samples: np.ndarray) -> float:
    """Of int16 [N], its sum of squares."""
    blocks = (samples[n : n + 1_000_000].astype(np.float64) for n in range(0, len(samples), 10**6))
    return sum(float(block @ block) for block in blocks)


def _decode_audio(
    path: Path, container: av.container.InputContainer, stream: av.AudioStream, limits: Limits
) -> tuple[float, np.ndarray]:
    """When the first audio track begins, in seconds, and its samples, int16 [C, N]."""
    import av

    layout = "mono" if stream.codec_context.channels == 1 else "stereo"
    resampler = av.AudioResampler("s16p", layout, SAMPLE_RATE)
    start, chunks, samples = None, [], 0
    for frame in container.decode(stream):
        start = frame.time or 0.0 if start is None else start
        for resampled in resampler.resample(frame):
            chunks.append(resampled.to_ndarray())
            samples += chunks[-1].shape[1]
        if samples > limits.seconds * SAMPLE_RATE:
            raise too_long(path, limits)
    if chunks:
        chunks += [r.to_ndarray() for r in resampler.resample(None)]
    if not samples:
        raise InputError(f"{path}: its audio track is empty; copy it again")
    return start, np.concatenate(chunks, axis=1)
