"""Extract the mouth regions of a video file, ready for the models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from avhubert_ext.data.media import (
    MEDIA_LIMITS,
    Damage,
    MediaLimits,
    PictureError,
    Sound,
    VideoTrack,
    beside,
    check_duration,
    probe,
    read_sound,
    video_frames,
)
from avhubert_ext.data.video import FPS, SLACK
from avhubert_ext.errors import InputError
from avhubert_ext.mouth import align
from avhubert_ext.mouth.crops import Crops, Recent, Reel, Thumbnails, gray_of, shrink_of, sources
from avhubert_ext.mouth.landmark_files import check_count, read_landmarks
from avhubert_ext.mouth.landmarks import open_landmarker
from avhubert_ext.mouth.quality import Quality, measure
from avhubert_ext.mouth.region import could_be_mouth, is_mouth, scaled
from avhubert_ext.mouth.sheet import outlined, sample_times
from avhubert_ext.mouth.speaker import speaking
from avhubert_ext.mouth.tracks import Follower, Person, Track
from avhubert_ext.progress import Report

Faces = Literal["largest", "speaking", "all"] | int
SCALES = (0.01, 100.0)  # plausible crop pixels per pixel of the video
SQUARE = 1.1  # largest ratio of the sides of a mouth region


class NoFaceError(PictureError):
    """A video without a face, or without one that can be used."""


@dataclass(frozen=True)
class MouthClip:
    """The mouth region of one face.

    Attributes:
        face: The number of the face, from 1; the largest is 1.
        video: uint8 [T, 96, 96] at 25 frames/s.
        audio: int16 [T * 640] at 16 kHz, or None.
        quality: How far the clip can be trusted.
        seen: bool [T], where the face was found. Elsewhere, `video` shows the nearest such frame.
        start: Time of the first frame in seconds on the file's clock.
        sound: All sound of the file, or None.
        points: Smoothed landmarks, float [T, K, 2] in pixels of the video. None for a ready-made
            mouth region.
        transforms: [T, 2, 3], from pixels of the video to pixels of the crop. None for a
            ready-made mouth region.
        pictures: Small frames by frame number that show where the mouth was found, for
            `write_sheet`.
        notes: What was chosen or changed, a few words each.
        sound_notes: What is wrong with the sound or is not in `audio`, a few words each.
    """

    face: int
    video: np.ndarray
    audio: np.ndarray | None
    quality: Quality
    seen: np.ndarray
    start: float = 0.0
    sound: Sound | None = None
    points: np.ndarray | None = None
    transforms: np.ndarray | None = None
    pictures: dict[int, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sound_notes: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know about the clip, a few words each; empty for a good clip."""
        return (*self.sound_notes, *self.notes, *self.quality.warnings)


def mouth_clips(
    path: Path,
    faces: Faces = "largest",
    *,
    mouth: bool = False,
    landmarks: Path | None = None,
    landmark_model: Path | None = None,
    limits: MediaLimits = MEDIA_LIMITS,
    sound: Sound | Literal["own"] | None = "own",
    progress: Report | None = None,
) -> list[MouthClip]:
    """Extract the mouth regions of a video.

    A video of 96x96 pixels is already a mouth region and is returned unchanged. Another small
    square video that shows moving lips but no face is scaled to that size.

    Args:
        path: The video file.
        faces: Which faces to extract: the `largest`, the one that is `speaking` (its mouth moves
            with the sound; the largest if that is not clear), `all`, or the number of a face
            (1 is the largest).
        mouth: Whether the video is a mouth region of any size.
        landmarks: A landmark file of AV-HuBERT or Auto-AVSR, used instead of detecting faces.
        landmark_model: The model for mediapipe, see `open_landmarker`.
        limits: The longest video and the largest frame to accept.
        sound: The sound of the file (`own`), other sound, or None.
        progress: Called with the number of frames done and the total, 0 if unknown.

    Returns:
        One clip per chosen face.

    Raises:
        InputError: If the file is not a video, is damaged, or is too long.
        NoFaceError: If there is no such face, or its quality is too low (`Quality.refusal`).
    """
    path = Path(path)
    info = probe(path)
    check_duration(path, limits, info)
    if info.video is None:
        raise PictureError(f"{path}: no video track; give a video file")
    if sound == "own":
        sound = None if info.audio is None else read_sound(path, limits)
    damage = Damage()
    seconds = info.video.seconds or info.seconds or 0.0
    frames = _counted(video_frames(path, limits, damage), seconds, progress)
    if mouth or _is_ready_made(path, info.video, landmarks, landmark_model, limits):
        _choose(path, 1, faces)
        return [_ready_made(path, info.video, frames, damage, sound)]
    if landmarks is not None:
        followed = _with_landmarks(landmarks, frames)
    else:
        followed = _follow(frames, landmark_model)
    followed = _without_poor(followed, damage)
    chosen, note = _chosen(path, followed, faces, sound, damage.start)
    for number in chosen:
        refusal = _refusal(followed, number, damage)
        if refusal is not None:
            raise NoFaceError(f"{path}: {refusal}")
    return [_clip(followed, number, damage, sound, note) for number in chosen]


@dataclass(frozen=True)
class _Mouth:
    """The mouth of one person: landmarks [T, K, 2], transforms [T, 2, 3], crop numbers [T]."""

    points: np.ndarray
    transforms: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True)
class _Followed:
    """A decoded video: the number and shape of its frames, and the mouth of each person."""

    frames: int
    shape: tuple[int, ...]
    persons: list[Person]
    mouths: list[_Mouth]
    crops: Crops
    thumbnails: Thumbnails


def _counted(
    frames: Iterator[np.ndarray], seconds: float, progress: Report | None
) -> Iterator[np.ndarray]:
    """Pass frames on and report progress."""
    total = round(seconds * FPS)
    done = 0
    for done, frame in enumerate(frames, start=1):
        yield frame
        if progress is not None:
            progress(done, total if done <= total else 0)
    if progress is not None and done != total:
        progress(done, done)


def _follow(frames: Iterator[np.ndarray], landmark_model: Path | None) -> _Followed:
    """Track the faces of a video and crop their mouths."""
    recent, crops, thumbnails = Recent(), Crops(), Thumbnails()
    reels: dict[int, Reel] = {}
    ended = 0  # number of ended tracks
    with open_landmarker(landmark_model) as landmarker:
        follower = Follower(landmarker)
        for number, frame in enumerate(frames):
            recent.add(gray_of(frame))
            thumbnails.see(number, frame)
            for track in follower.see(frame):
                reel = reels.setdefault(id(track), Reel(number))
                reel.add(number, track.points[number])
            for track in follower.gone[ended:]:
                reels[id(track)].crop(recent, crops, ended=True)
            ended = len(follower.gone)
            for track in follower.known:
                reels[id(track)].crop(recent, crops, ended=False)
            recent.forget(min((reels[id(t)].due for t in follower.known), default=recent.end))
    for track in follower.known:
        reels[id(track)].crop(recent, crops, ended=True)
    persons = follower.persons()
    mouths = [
        _joined([reels[id(track)] for track in person.tracks], person, recent.end)
        for person in persons
    ]
    return _Followed(recent.end, frame.shape, persons, mouths, crops, thumbnails)


def _joined(reels: list[Reel], person: Person, frames: int) -> _Mouth:
    """Join the reels of a person's tracks to one mouth for all frames."""
    owner = {t: n for n in reversed(range(len(reels))) for t in person.tracks[n].points}
    known = np.array(sorted(owner))
    tracks, times = sources(known, np.array([owner[t] for t in known.tolist()]), frames)
    shown = [(reels[n], t - reels[n].first) for n, t in zip(tracks, times, strict=True)]
    return _Mouth(
        np.stack([reel.points[t] for reel, t in shown]),
        np.stack([reel.transforms[t] for reel, t in shown]),
        np.array([reel.crops[t] for reel, t in shown]),
    )


def _with_landmarks(path: Path, frames: Iterator[np.ndarray]) -> _Followed:
    """Crop the mouth of the face described by a landmark file."""
    crops, thumbnails = Crops(), Thumbnails()
    count, found = read_landmarks(path)
    points = align.smooth(align.fill_gaps(found, count))
    transforms = align.mouth_transforms(points)
    scales = align.scales(transforms)
    if not ((scales > SCALES[0]) & (scales < SCALES[1])).all():
        raise InputError(
            f"{path}: not landmarks of a face, but points that coincide or lie far apart; make the "
            "file again"
        )
    shrink = number = 0
    for number, frame in enumerate(frames, start=1):
        if number > count:
            continue
        shrink = shrink_of(scales[number - 1], shrink)
        crops.add(align.warp(gray_of(frame), transforms[number - 1], shrink))
        thumbnails.see(number - 1, frame)
    check_count(path, count, number)
    mouth = _Mouth(points, transforms, np.arange(count))
    return _Followed(count, frame.shape, [Person([Track(found)])], [mouth], crops, thumbnails)


def _without_poor(followed: _Followed, damage: Damage) -> _Followed:
    """Drop the faces that cannot be used, unless there are no others."""
    numbers = range(len(followed.persons))
    good = [n for n in numbers if _refusal(followed, n, damage) is None]
    if not good:
        return followed
    return replace(
        followed,
        persons=[followed.persons[n] for n in good],
        mouths=[followed.mouths[n] for n in good],
    )


def _refusal(followed: _Followed, number: int, damage: Damage) -> str | None:
    """Return why the mouth of a person cannot be used, and what to do; None if it can."""
    if followed.persons[number].upside_down:
        return "the face is upside down; turn the video by 180 degrees"
    refusal = _quality(followed, number, damage).refusal
    return None if refusal is None else f"{refusal}; give a video with a visible face"


def _seen(followed: _Followed, number: int) -> np.ndarray:
    """Return the frames in which the face of a person was found, bool [T]."""
    seen = np.zeros(followed.frames, bool)
    seen[list(followed.persons[number].points)] = True
    return seen


def _quality(followed: _Followed, number: int, damage: Damage) -> Quality:
    person, mouth = followed.persons[number], followed.mouths[number]
    return measure(
        mouth.points,
        mouth.transforms,
        _seen(followed, number),
        followed.shape,
        faces=len(followed.persons),
        scores=person.scores,
        jumping=person.jumping,
        damaged=damage.damaged,
    )


def _clip(
    followed: _Followed, number: int, damage: Damage, sound: Sound | None, note: str | None
) -> MouthClip:
    """Make the clip of a person."""
    mouth, frames = followed.mouths[number], followed.frames
    pictures = {
        t: outlined(picture, followed.shape[1], mouth.points[t], mouth.transforms[t])
        for t, picture in followed.thumbnails.nearest(sample_times(frames))
    }
    return MouthClip(
        face=number + 1,
        video=followed.crops.take(mouth.numbers),
        **_beside(sound, damage.start, frames),
        quality=_quality(followed, number, damage),
        seen=_seen(followed, number),
        start=damage.start,
        points=mouth.points,
        transforms=mouth.transforms,
        pictures=pictures,
        notes=() if note is None else (note,),
    )


def _is_ready_made(
    path: Path,
    track: VideoTrack,
    landmarks: Path | None,
    landmark_model: Path | None,
    limits: MediaLimits,
) -> bool:
    """Return whether a video is already a mouth region."""
    size = track.width, track.height
    if size == (align.SIZE, align.SIZE):
        return True
    if landmarks is not None or not could_be_mouth(size):
        return False
    with open_landmarker(landmark_model) as landmarker:
        return is_mouth(video_frames(path, limits), landmarker)


def _ready_made(
    path: Path,
    track: VideoTrack,
    frames: Iterator[np.ndarray],
    damage: Damage,
    sound: Sound | None,
) -> MouthClip:
    width, height = track.width, track.height
    if max(width, height) > SQUARE * min(width, height):
        raise InputError(f"{path}: {width}x{height} pixels, but a mouth region is square; crop it")
    crops = Crops()
    numbers = [crops.add(scaled(gray_of(frame))) for frame in frames]
    count = len(numbers)
    note = f"treated as a mouth region of {width}x{height} pixels, scaled to 96x96"
    quality = Quality(
        count, missing=0, faces=0, scale=1.0, motion=0.0, outside=0.0, damaged=damage.damaged
    )
    return MouthClip(
        face=1,
        video=crops.take(np.array(numbers)),
        **_beside(sound, damage.start, count),
        quality=quality,
        seen=np.ones(count, bool),
        start=damage.start,
        notes=() if width == height == align.SIZE else (note,),
    )


def _beside(sound: Sound | None, start: float, frames: int) -> dict[str, Any]:
    """Return the fields of a `MouthClip` that concern the sound."""
    if sound is None:
        return {"audio": None}
    track = beside(sound, start, frames)
    notes: tuple[str, ...] = (
        f"{track.before:.1f} s of sound before the first frame and {track.after:.1f} s after the "
        "last are not used",
    )
    if (track.before + track.after) * FPS <= SLACK:
        notes = ()
    return {"audio": track.samples, "sound": sound, "sound_notes": sound.notes + notes}


def _chosen(
    path: Path, followed: _Followed, faces: Faces, sound: Sound | None, start: float
) -> tuple[list[int], str | None]:
    """Return the numbers of the requested persons, from 0, and a note if there was a choice."""
    persons = followed.persons
    if faces != "speaking":
        note = f"{len(persons)} faces; using the largest" if faces == "largest" else None
        return _choose(path, len(persons), faces), note if len(persons) > 1 else None
    (first,) = _choose(path, len(persons), "largest")
    if len(persons) == 1:
        return [first], None
    heard = None
    if sound is not None:
        samples = beside(sound, start, followed.frames).samples
        heard = speaking([person.points for person in persons], samples)
    if heard is None:
        why = "there is no sound" if sound is None else "it is not clear who speaks"
        return [first], f"{len(persons)} faces; {why}, using the largest"
    where = _place(persons, heard)
    return [heard], f"{len(persons)} faces; using face {heard + 1} ({where}), which speaks"


def _place(persons: list[Person], number: int) -> str:
    """Describe the position of a face among the others."""
    centers = [np.median([p.mean(0) for p in q.points.values()], axis=0) for q in persons]
    x = [center[0] for center in centers]
    order = sorted(range(len(x)), key=x.__getitem__).index(number)
    if 0 < order < len(x) - 1:
        return f"number {order + 1} from the left"
    return "right" if order else "left"


def _choose(path: Path, persons: int, faces: Faces) -> list[int]:
    """Return the numbers of the requested persons, from 0."""
    if not persons:
        raise _no_face(path)
    if faces == "all":
        return list(range(persons))
    number = 1 if faces in ("largest", "speaking") else int(faces)
    if not 1 <= number <= persons:
        raise InputError(
            f"{path}: no face {number}: found {persons}, numbered from 1 (the largest)"
        )
    return [number - 1]


def _no_face(path: Path) -> NoFaceError:
    return NoFaceError(f"{path}: no face found in it; give a video with a visible face")
