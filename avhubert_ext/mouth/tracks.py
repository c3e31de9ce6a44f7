"""Faces followed through a video, by place.

A known face is looked for in a square around where it was; the whole frame is searched, in
overlapping squares, only now and then. So a small face in a large frame is found and its landmarks
are as fine as those of a large one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from avhubert_ext.mouth.align import misfit
from avhubert_ext.mouth.landmarks import Landmarker
from avhubert_ext.mouth.quality import SCORE, jumps

SEARCH_EVERY = 12  # frames, for more faces; while none is seen, every frame
FINE_SEARCH_EVERY = 25  # frames, for small faces, only while no face is seen
FINE = 3  # squares of that fraction of the frame's short side
SMALLEST = 128  # pixels, the side of a square; a face in it has at least 18
REGION = 2  # sides of a face: the square it is looked for in, and a side more each frame it is lost
WIDEST = 6
STEADY = 0.1  # of a face: so far it may move in the square, or grow, before the square moves
GIVE_UP = 25  # frames without a face in its place
FEWEST = 5  # frames; a shorter track is a mistake of the detector
SHARED = 0.1  # of the frames of the shorter of two tracks; with more they are there together
ON = 0.5  # of the side of the larger face: nearer to one another, two faces are one
BESIDE = 1.0  # of it: so far a face may move while it is lost
TRY_EVERY = 12  # frames of a face, to try whether it is upside down, and a face at all
TURN_REGION = 3  # sides of a face: the square for that
UPRIGHT = 6.0  # pixels of misfit: 5 of a face from the front, mostly over 7 of one upside down.
# With it none of 98 upright faces of LFW, at 25x25 pixels, is said to be upside down.


@dataclass
class Square:
    """A square of a frame, in pixels."""

    corner: np.ndarray
    side: float

    @property
    def center(self) -> np.ndarray:
        return self.corner + self.side / 2


@dataclass
class Track:
    """A face in one place.

    points: landmarks [K, 2] by frame number, in order; square: where it was looked for; turned:
    whether it seemed upside down, and scores: how sure the detector was, each time that it was
    tried.
    """

    points: dict[int, np.ndarray]
    square: Square | None = None
    turned: list[bool] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    @property
    def first(self) -> int:
        return next(iter(self.points))

    @property
    def last(self) -> int:
        return next(reversed(self.points))

    @property
    def size(self) -> float:
        """Summed height of the face, in pixels: large for a large face that is long there."""
        return float(sum(box_side(points) for points in self.points.values()))


@dataclass
class Person:
    """Tracks of one face, the largest first; at a cut, say, a face goes on in another place."""

    tracks: list[Track]

    @property
    def size(self) -> float:
        return sum(track.size for track in self.tracks)

    @property
    def points(self) -> dict[int, np.ndarray]:
        """Landmarks by frame number, in order."""
        found = {t: points for track in reversed(self.tracks) for t, points in track.points.items()}
        return dict(sorted(found.items()))

    @property
    def scores(self) -> list[float]:
        return [score for track in self.tracks for score in track.scores]

    @property
    def frames(self) -> int:
        """How many frames the face was found in."""
        return len(set().union(*(track.points for track in self.tracks)))

    @property
    def jumping(self) -> float:
        """The share of the frames to which the landmarks jump within a track."""
        jumped = steps = 0
        for track in self.tracks:
            found = jumps(np.stack(list(track.points.values())))
            following = np.diff(list(track.points)) == 1
            jumped, steps = jumped + (found & following).sum(), steps + following.sum()
        return float(jumped / max(1, steps))

    @property
    def upside_down(self) -> bool:
        """Whether the face mostly seemed so, and the landmarks are wrong."""
        turned = [seemed for track in self.tracks for seemed in track.turned]
        return 2 * sum(turned) > len(turned)

    def free(self, track: Track) -> bool:
        """Whether the face is in no other place during a track."""
        return all(track.first > t.last or track.last < t.first for t in self.tracks)

    def continues(self, track: Track) -> bool:
        """Whether a track is this face by place, size and time: alternating with it, or on it."""
        return any(_one_face(track, own) for own in self.tracks)


class Follower:
    """Follows faces through a video, frame by frame."""

    def __init__(self, landmarker: Landmarker) -> None:
        self._landmarker = landmarker
        self._number = -1
        self.known: list[Track] = []  # in the picture
        self.gone: list[Track] = []

    def see(self, frame: np.ndarray) -> list[Track]:
        """The next frame, RGB uint8 [H, W, 3] -> the tracks of the faces found in it."""
        self._number += 1
        number, landmarker = self._number, self._landmarker
        seen: list[Track] = []
        for track in self.known:
            points = _look_again(frame, track, number - track.last, landmarker)
            if points is not None and not any(_same(points, t.points[number]) for t in seen):
                track.points[number] = points
                seen.append(track)
                if len(track.points) % TRY_EVERY == 2:
                    track.turned.append(_is_turned(frame, points, landmarker))
                    score = landmarker.score(_part(frame, track.square)[0])
                    track.scores += [] if score is None else [score]
        if not seen or number % SEARCH_EVERY == 0:
            fine = not seen and number % FINE_SEARCH_EVERY == 0
            for points in _search(frame, landmarker, fine):
                if not any(_same(points, t.points[number]) for t in seen):
                    seen.append(Track({number: points}))
                    self.known.append(seen[-1])
        self.gone += [track for track in self.known if number - track.last >= GIVE_UP]
        self.known = [track for track in self.known if number - track.last < GIVE_UP]
        return seen

    def persons(self) -> list[Person]:
        """The persons seen so far, the largest first.

        A face that goes on elsewhere, after a cut for one, goes on in the largest person that is
        not in the picture at that time.
        """
        return _persons(self.gone + self.known)


def follow_faces(frames: Iterable[np.ndarray], landmarker: Landmarker) -> list[Person]:
    """The persons in a video, the largest first; frames: RGB uint8 [H, W, 3] each."""
    follower = Follower(landmarker)
    for frame in frames:
        follower.see(frame)
    return follower.persons()


def box_side(points: np.ndarray) -> float:
    """The larger side of the box around landmarks [K, 2]."""
    return float(np.ptp(points, axis=0).max())


def _look_again(
    frame: np.ndarray, track: Track, ago: int, landmarker: Landmarker
) -> np.ndarray | None:
    """The face [68, 2] near where it was some frames ago."""
    before = track.points[track.last]
    region = min(REGION + ago - 1, WIDEST)
    track.square = _steady(track.square, before, box_side(before) * region)
    found = _faces_in(frame, track.square, landmarker)
    near = [points for points in found if _same(points, before, region / 4)]
    return min(near, key=lambda points: _distance(points, before), default=None)


def _is_turned(frame: np.ndarray, face: np.ndarray, landmarker: Landmarker) -> bool:
    """Whether a face is upside down: its landmarks are hardly a face's, turned by half they are.

    The detector finds such a face, but often with the eyes about where its mouth is.
    """
    if misfit(face) < UPRIGHT:
        return False
    side = TURN_REGION * box_side(face)
    middle = (face.min(0) + face.max(0)) / 2
    square = Square(np.array(frame.shape[1::-1]) - middle - side / 2, side)
    found = _faces_in(np.rot90(frame, 2), square, landmarker)
    return any(misfit(points) < UPRIGHT for points in found)


def _steady(square: Square | None, face: np.ndarray, side: float) -> Square:
    """A square of about that side around a face; the one before, if that will do.

    Landmarks depend a little on the square that they were found in: a face that keeps still keeps
    still in the landmarks, too, only in the same square (measured: a tenth of the jitter).
    """
    middle = (face.min(0) + face.max(0)) / 2
    if (
        square is not None
        and abs(square.center - middle).max() < STEADY * box_side(face)
        and abs(side / square.side - 1) < STEADY
    ):
        return square
    return Square(middle - side / 2, side)


def _search(frame: np.ndarray, landmarker: Landmarker, fine: bool) -> list[np.ndarray]:
    """Faces [68, 2] anywhere: from those that fill the frame to those a seventh of its height.

    fine: if there are none, down to a twentieth.
    """
    height, width = frame.shape[:2]
    found = _search_squares(frame, {max(height, width), min(height, width)}, landmarker)
    if fine and not found:
        found = _search_squares(frame, {min(height, width) / FINE}, landmarker)
    return found


def _search_squares(
    frame: np.ndarray, sides: set[float], landmarker: Landmarker
) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for side in {max(side, SMALLEST) for side in sides}:
        for square in _squares(frame.shape, side):
            for points in _faces_in(frame, square, landmarker):
                if not any(_same(points, other) for other in found):
                    found.append(points)
    return found


def _squares(shape: tuple[int, ...], side: float) -> Iterator[Square]:
    """Squares that cover a frame and overlap by half or more."""
    height, width = shape[:2]
    for y in _steps(height, side):
        for x in _steps(width, side):
            yield Square(np.array([x, y]), side)


def _steps(length: float, side: float) -> np.ndarray:
    """Where squares begin along a side of the frame; the only one lies in its middle."""
    rest = length - side
    if rest <= 0:
        return np.array([rest / 2])
    return np.linspace(0, rest, 1 + int(np.ceil(2 * rest / side)))


def _faces_in(frame: np.ndarray, square: Square, landmarker: Landmarker) -> list[np.ndarray]:
    """Faces [68, 2] in a square of a frame."""
    image, corner = _part(frame, square)
    return [points + corner for points in landmarker.faces(image)] if image.size else []


def _part(frame: np.ndarray, square: Square) -> tuple[np.ndarray, np.ndarray]:
    """A square of a frame, black where the frame ends, and its corner; empty if it is outside."""
    left, top = np.round(square.corner).astype(int)
    side = round(square.side)
    part = frame[max(top, 0) : top + side, max(left, 0) : left + side]
    if part.size:
        above, before = max(-top, 0), max(-left, 0)
        below, after = side - above - part.shape[0], side - before - part.shape[1]
        part = cv2.copyMakeBorder(part, above, below, before, after, cv2.BORDER_CONSTANT)
    return part, np.array([left, top])


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.mean(0) - b.mean(0)))


def _same(a: np.ndarray, b: np.ndarray, reach: float = 0.5) -> bool:
    """Whether two faces are one by size and by place: less than `reach` of its sides apart."""
    sides = sorted((box_side(a), box_side(b)))
    return _distance(a, b) < reach * sides[1] and sides[0] > 0.5 * sides[1]


def _one_face(track: Track, other: Track) -> bool:
    """Whether two tracks are one face: in frames of both on one another, else near by.

    Where both were found in more than a few frames, they are two faces unless one lies on the
    other; the detector takes a part of a face, or more than it, for another one. Where they
    alternate, the face was lost and found in about the same place.
    """
    shared = [t for t in track.points if t in other.points]
    if len(shared) > SHARED * min(len(track.points), len(other.points)):
        apart = [_apart(track.points[t], other.points[t]) for t in shared]
        return float(np.median(apart)) < ON
    times = np.array(list(other.points))
    near = min(
        ((t, times[np.abs(times - t).argmin()]) for t in (track.first, track.last)),
        key=lambda pair: abs(pair[0] - pair[1]),
    )
    a, b = track.points[near[0]], other.points[near[1]]
    overlapping = track.first <= other.last and other.first <= track.last
    return overlapping and _same(a, b, BESIDE)


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """The distance of two faces in sides of the larger."""
    return _distance(a, b) / max(box_side(a), box_side(b))


def _persons(tracks: list[Track]) -> list[Person]:
    """The largest first."""
    persons: list[Person] = []
    for track in sorted(tracks, key=lambda t: t.size, reverse=True):
        if persons and (len(track.points) < FEWEST or _is_no_face(track)):
            continue
        joined = next((p for p in persons if p.continues(track)), None)
        joined = joined or next((p for p in persons if p.free(track)), None)
        if joined is None:
            persons.append(Person([track]))
        else:
            joined.tracks.append(track)
    return sorted(persons, key=lambda p: p.size, reverse=True)


def _is_no_face(track: Track) -> bool:
    return len(track.scores) > 0 and float(np.median(track.scores)) < SCORE[1]
