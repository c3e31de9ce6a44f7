"""The mouth regions of a video file, ready for the models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from avhubert_ext.data.media import (
    LIMITS,
    Damage,
    Limits,
    MediaInfo,
    PictureError,
    Sound,
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
from avhubert_ext.mouth.landmark_files import check_count, read_any_landmarks
from avhubert_ext.mouth.landmarks import open_landmarker
from avhubert_ext.mouth.quality import Quality, measure
from avhubert_ext.mouth.region import could_be_mouth, is_mouth, scaled
from avhubert_ext.mouth.sheet import outlined, sample_times
from avhubert_ext.mouth.speaker import speaking
from avhubert_ext.mouth.tracks import Follower, Person, Track

Faces = Literal["largest", "speaking", "all"] | int
Progress = Callable[[int, int], None]
SCALES = (0.01, 100.0)  # crop pixels a pixel of the video; beyond, that was no face
SQUARE = 1.1  # at most the sides of a mouth region differ by


class NoFaceError(PictureError):
    """A video in which no face was found, or none that can be used."""


@dataclass(frozen=True)
class MouthClip:
    """A face's mouth.

    face: from 1, the largest first; video: uint8 [T, 96, 96] at 25 frames a second; audio: int16
    [T * 640] at 16 kHz, or None; seen: bool [T], where the face was found: elsewhere `video` shows
    the nearest such frame; start: of the first frame, in seconds on the file's clock; sound: all of
    the file's, or None; points: smoothed landmarks float [T, K, 2] in the video's pixels, and
    transforms [T, 2, 3] from those to the crop's, both None for a ready-made clip; pictures: small
    frames by number that show where the mouth was found, for `write_sheet`; notes: what was chosen
    or changed, and sound_notes: what is wrong with the sound, or not in `audio`, each a few words.
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
        """What a user should know of the clip, each a few words; empty for a good one."""
        return (*self.sound_notes, *self.notes, *self.quality.warnings)


def mouth_clips(
    path: Path,
    faces: Faces = "largest",
    *,
    mouth: bool = False,
    landmarks: Path | None = None,
    landmark_model: Path | None = None,
    limits: Limits = LIMITS,
    sound: Sound | Literal["own"] | None = "own",
    progress: Progress | None = None,
) -> list[MouthClip]:
    """The mouth region of the largest face of a video, of the one that speaks, the N-th largest,
    or of all.

    "speaking" is the face whose mouth moves with the sound, the largest where that is not clear.
    A video of 96x96 pixels is a mouth region already and passes through; another small square one
    that shows moving lips and no face is scaled to that size, as any is with `mouth`. landmarks: a
    file of AV-HuBERT or Auto-AVSR instead of looking for faces; landmark_model: see
    `open_landmarker`. sound: the file's own, another, or none. progress: called with the frames
    done and those there are, 0 if not known.
    Raises InputError for a file that is no video, damaged, or too long, and NoFaceError where there
    is no such face, or none good enough, see `Quality.refusal`.
    """
    path = Path(path)
    info = probe(path)
    check_duration(path, limits, info)
    if info.video is None:
        raise PictureError(f"{path}: no video track; give a file with a moving picture")
    if sound == "own":
        sound = None if info.audio is None else read_sound(path, limits)
    damage = Damage()
    frames = _counted(video_frames(path, limits, damage), info, progress)
    if mouth or _is_ready_made(path, info, landmarks, landmark_model, limits):
        _choose(path, 1, faces)
        return [_ready_made(path, info, frames, damage, sound)]
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
    """What was cropped of a person's face: landmarks [T, K, 2], transforms [T, 2, 3], crops [T]."""

    points: np.ndarray
    transforms: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True)
class _Followed:
    """A video after it was decoded: T frames of `shape`, and each person's mouth."""

    frames: int
    shape: tuple[int, ...]
    persons: list[Person]
    mouths: list[_Mouth]
    crops: Crops
    thumbnails: Thumbnails


def _counted(
    frames: Iterator[np.ndarray], info: MediaInfo, progress: Progress | None
) -> Iterator[np.ndarray]:
    """Hands frames on and reports how many have passed, of how many."""
    seconds = info.video.seconds or info.seconds or 0.0
    total = round(seconds * FPS)
    done = 0
    for done, frame in enumerate(frames, start=1):
        yield frame
        if progress is not None:
            progress(done, total if done <= total else 0)
    if progress is not None and done != total:
        progress(done, done)


def _follow(frames: Iterator[np.ndarray], landmark_model: Path | None) -> _Followed:
    """Follows the faces of a video and crops their mouths."""
    recent, crops, thumbnails = Recent(), Crops(), Thumbnails()
    reels: dict[int, Reel] = {}
    ended = 0  # tracks
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
    """The mouth of a person in each of so many frames, from the reels of its tracks."""
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
    """Crops the mouth of the face whose landmarks are in a file."""
    crops, thumbnails = Crops(), Thumbnails()
    count, found = read_any_landmarks(path)
    points = align.smooth(align.fill_gaps(found, count))
    transforms = align.mouth_transforms(points)
    scales = align.scales(transforms)
    if not ((scales > SCALES[0]) & (scales < SCALES[1])).all():
        raise InputError(f"{path}: no face's landmarks, in one spot or far apart")
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
    """Without faces that cannot be used, if there are others."""
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
    """Why the mouth of a person cannot be used, and what to do; None if it can."""
    if followed.persons[number].upside_down:
        return "the face is upside down; turn the video by 180 degrees"
    refusal = _quality(followed, number, damage).refusal
    return None if refusal is None else f"{refusal}; give a video with a visible face"


def _seen(followed: _Followed, number: int) -> np.ndarray:
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
    """The clip of a person."""
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
    info: MediaInfo,
    landmarks: Path | None,
    landmark_model: Path | None,
    limits: Limits,
) -> bool:
    """Whether a video is a mouth region already."""
    size = info.video.width, info.video.height
    if size == (align.SIZE, align.SIZE):
        return True
    if landmarks is not None or not could_be_mouth(size):
        return False
    with open_landmarker(landmark_model) as landmarker:
        return is_mouth(video_frames(path, limits), landmarker)


def _ready_made(
    path: Path,
    info: MediaInfo,
    frames: Iterator[np.ndarray],
    damage: Damage,
    sound: Sound | None,
) -> MouthClip:
    width, height = info.video.width, info.video.height
    if max(width, height) > SQUARE * min(width, height):
        raise InputError(
            f"{path}: {width}x{height} pixels, a mouth region is square; cut it around the mouth"
        )
    crops = Crops()
    numbers = [crops.add(scaled(gray_of(frame))) for frame in frames]
    count = len(numbers)
    note = f"taken for a mouth region of {width}x{height} pixels, scaled to 96x96"
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
    """The fields of a `MouthClip` that are about the sound."""
    if sound is None:
        return {"audio": None}
    track = beside(sound, start, frames)
    notes = (
        f"{track.before:.1f} s of sound before the first frame and {track.after:.1f} s after the "
        "last are left out",
    )
    if (track.before + track.after) * FPS <= SLACK:
        notes = ()
    return {"audio": track.samples, "sound": sound, "sound_notes": sound.notes + notes}


def _chosen(
    path: Path, followed: _Followed, faces: Faces, sound: Sound | None, start: float
) -> tuple[list[int], str | None]:
    """The numbers of the wanted persons, from 0, and a note where that was a choice."""
    persons = followed.persons
    if faces != "speaking":
        note = f"{len(persons)} faces; the largest is used" if faces == "largest" else None
        return _choose(path, len(persons), faces), note if len(persons) > 1 else None
    (first,) = _choose(path, len(persons), "largest")
    if len(persons) == 1:
        return [first], None
    heard = None
    if sound is not None:
        samples = beside(sound, start, followed.frames).samples
        heard = speaking([person.points for person in persons], samples)
    if heard is None:
        why = "no sound shows" if sound is None else "it is not clear"
        return [first], f"{len(persons)} faces; {why} which speaks, the largest is used"
    where = _place(persons, heard)
    return [heard], f"{len(persons)} faces; face {heard + 1} ({where}) speaks"


def _place(persons: list[Person], number: int) -> str:
    """Where a face is beside the others, in a word."""
    centers = [np.median([p.mean(0) for p in q.points.values()], axis=0) for q in persons]
    x = [center[0] for center in centers]
    order = sorted(range(len(x)), key=x.__getitem__).index(number)
    if 0 < order < len(x) - 1:
        return f"number {order + 1} from the left"
    return "right" if order else "left"


def _choose(path: Path, persons: int, faces: Faces) -> list[int]:
    """The numbers of the wanted persons among so many, from 0."""
    if not persons:
        raise _no_face(path)
    if faces == "all":
        return list(range(persons))
    number = 1 if faces in ("largest", "speaking") else int(faces)
    if not 1 <= number <= persons:
        raise InputError(f"{path}: no face {number}, {persons} found; the largest is 1")
    return [number - 1]


def _no_face(path: Path) -> NoFaceError:
    return NoFaceError(f"{path}: no face found in it; give a video with a visible face")
