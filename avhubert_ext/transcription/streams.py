"""Audio and mouth region of a video or sound file, on a common clock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avhubert_ext.data.audio import SAMPLE_RATE, SAMPLES_PER_FRAME
from avhubert_ext.data.media import (
    MEDIA_LIMITS,
    MediaInfo,
    MediaLimits,
    PictureError,
    Sound,
    check_duration,
    probe,
    read_sound,
    too_long,
)
from avhubert_ext.data.video import FPS, SLACK
from avhubert_ext.errors import InputError
from avhubert_ext.mouth.clip import Faces, MouthClip, mouth_clips
from avhubert_ext.progress import Report
from avhubert_ext.transcription.transcribe import fitted

QUIET = 30  # root mean square of int16 samples below which speech is inaudible


@dataclass(frozen=True)
class Streams:
    """A clip, starting with the file's first picture or first sound, whichever is earlier.

    Attributes:
        audio: int16 [N] at 16 kHz, or None if it is not used.
        video: The mouth region, uint8 [T, 96, 96] at 25 frames per second, or None.
        seen: bool [T], whether each frame shows the face; None without video.
        notes: What was not used and why, and quality warnings, one line each.
        clip: The mouth clip that `video` comes from; None without video.
    """

    audio: np.ndarray | None
    video: np.ndarray | None
    seen: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    clip: MouthClip | None = None


def read_streams(
    path: Path,
    modalities: tuple[str, ...],
    *,
    face: Faces = "speaking",
    mouth: bool = False,
    landmarks: Path | None = None,
    landmark_model: Path | None = None,
    limits: MediaLimits = MEDIA_LIMITS,
    progress: Report | None = None,
) -> Streams:
    """Read the streams of a file.

    Both are read if `modalities` has "both", else whichever is allowed. The sound of a video
    without an audio track may be in `NAME.wav` beside it. If the picture does not decode or shows
    no usable face, the sound alone is used; if the sound does not decode, the picture alone.

    Args:
        path: A video or sound file.
        modalities: What may be used, of "both", "audio" and "video".
        face: Which face to read, see `mouth_clips`.
        mouth: Whether the video is a mouth region already.
        landmarks: See `mouth_clips`.
        landmark_model: See `mouth_clips`.
        limits: Limits of length and frame size.
        progress: Called with the number of frames done and the total, 0 if unknown.

    Raises:
        InputError: If the file cannot be read or has no stream that may be used.
    """
    info = probe(path)
    check_duration(path, limits, info)
    hears = {"audio", "both"} & set(modalities)
    sound, notes = _sound(path, info, limits, "video" in modalities and info.video is not None)
    notes = notes if hears else ()  # otherwise the sound only serves to find the speaker
    if modalities == ("audio",):
        return Streams(_needed(path, sound).samples, None, notes=notes)
    if info.video is None and "audio" in modalities:
        note = "no video track in it: sound alone"
        return Streams(_needed(path, sound).samples, None, notes=(*notes, note))
    try:
        (clip,) = mouth_clips(
            path,
            face,
            mouth=mouth,
            landmarks=landmarks,
            landmark_model=landmark_model,
            limits=limits,
            sound=sound,
            progress=progress,
        )
    except PictureError as error:
        if sound is None and hears and info.video is not None:
            lack = "its sound does not decode" if notes else "there is no sound in it"
            raise InputError(f"{error}; {lack} either") from None
        if sound is None or "audio" not in modalities:
            raise
        note = f"{_reason(error, path)}: sound alone"
        return Streams(sound.samples, None, notes=(*notes, note))
    if sound is None and hears and "video" not in modalities:
        _needed(path, sound)
    if sound is None and hears and not notes:
        notes = ("no audio track in it: picture alone",)
    notes += clip.notes + clip.quality.warnings
    if sound is None or "both" not in modalities:
        return Streams(None, clip.video, clip.seen, notes, clip)
    _check_span(path, sound, clip, limits)
    return _on_one_clock(sound, clip, notes)


def _check_span(path: Path, sound: Sound, clip: MouthClip, limits: MediaLimits) -> None:
    """Raise an InputError if sound and picture together span more than the limit of seconds."""
    ends = sound.start + len(sound.samples) / SAMPLE_RATE, clip.start + len(clip.video) / FPS
    seconds = max(ends) - min(sound.start, clip.start)
    if seconds > limits.seconds + SLACK / FPS:
        raise too_long(path, limits, f" by its time stamps: {seconds:.0f} s")


def _sound(
    path: Path, info: MediaInfo, limits: MediaLimits, optional: bool
) -> tuple[Sound | None, tuple[str, ...]]:
    """Read the sound of a file, or the one beside it, with notes; None if there is none.

    optional: return None if it does not decode, instead of raising an InputError.
    """
    wav = path.with_suffix(".wav")
    file = path if info.audio is not None else wav
    if info.audio is None and not wav.is_file():
        return None, ()
    try:
        sound = read_sound(file, limits)
    except InputError as error:
        if not optional:
            raise
        return None, (f"{_reason(error, file)}: picture alone",)
    notes = sound.notes + _loudness_note(sound)
    if file == path:
        return sound, notes
    start = 0.0 if info.video is None else info.video.start
    return Sound(start, sound.samples), (f"no audio track in it: audio of {wav}", *notes)


def _reason(error: InputError, path: Path) -> str:
    """Return what an error says is wrong, without the file's name and the remedy."""
    return str(error).removeprefix(f"{path}: ").split("; ")[0]


def _loudness_note(sound: Sound) -> tuple[str, ...]:
    power = np.mean(np.square(sound.samples, dtype=np.float32))
    return ("the sound is almost silent",) if power < QUIET**2 else ()


def _needed(path: Path, sound: Sound | None) -> Sound:
    if sound is None:
        raise InputError(f"{path}: no audio track; give a file with sound")
    return sound


def _on_one_clock(sound: Sound, clip: MouthClip, notes: tuple[str, ...]) -> Streams:
    """Align sound and picture, starting with the earlier of the two."""
    audio, video, seen = sound.samples, clip.video, clip.seen
    late = round((clip.start - sound.start) * FPS)  # frames at the beginning that have no picture
    if late > 0:
        video = np.concatenate([np.repeat(video[:1], late, axis=0), video])
        seen = np.concatenate([np.zeros(late, bool), seen])
        late_note = (f"the picture begins {late / FPS:.1f} s after the sound",)
        notes += late_note if late > SLACK else ()
    shift = round((sound.start - clip.start) * SAMPLE_RATE) + max(late, 0) * SAMPLE_RATE // FPS
    audio = np.pad(audio, (shift, 0)) if shift > 0 else audio[-shift:]
    if abs(len(audio) - len(video) * SAMPLES_PER_FRAME) <= SLACK * SAMPLES_PER_FRAME:
        audio = fitted(audio, len(video))
    return Streams(audio, video, seen, notes, clip)
