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

SEARCH_EVERY = 12  # frames, for more faces; while none is seen, every frame
FINE_SEARCH_EVERY = 25  # frames, for small faces, only while no face is seen
FINE = 3  # squares of that fraction of the frame's short side
SMALLEST = 128  # pixels, the side of a square; a face in it has at least 18
REGION = 2  # sides of a face: the square it is looked for in, and a side more each frame it is lost
WIDEST = 6
STEADY = 0.1  # of a face: so far it may move in the square, or grow, before the square moves
GIVE_UP = 25  # frames without a face in its place
FEWEST = 5  # frames; a shorter track is a mistake of the detector
TURN_EVERY = 12  # frames of a face, to try whether a face is upside down
TURN_REGION = 3  # sides of a face: the square for that
UPRIGHT = 6.0  # pixels of misfit: 5 of a face from the front, mostly over 7 of one upside down.
# With it none of 98 upright faces of LFW, at 25x25 pixels, is said to be upside down.


@dataclass
class Square:
    """A square of a frame, in pixels."""

    corner: np.ndarray
    side: float

    @property
    def centre(self) -> np.ndarray:
        return self.corner + self.side / 2


@dataclass
class Track:
    """A face in one place.

    points: landmarks [K, 2] by frame number, in order; square: where it was looked for; turned:
    whether it seemed upside down, each time that it was tried.
    """

    points: dict[int, np.ndarray]
    square: Square | None = None
    turned: list[bool] = field(default_factory=list)

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
    """Tracks one after the other; at a cut, say, a face goes on in another place."""

    tracks: list[Track]

    @property
    def size(self) -> float:
        return sum(track.size for track in self.tracks)

    @property
    def frames(self) -> int:
        """How many frames the face was found in."""
        return sum(len(track.points) for track in self.tracks)

    @property
    def upside_down(self) -> bool:
        """Whether the face mostly seemed so, and the landmarks are wrong."""
        turned = [seemed for track in self.tracks for seemed in track.turned]
        return 2 * sum(turned) > len(turned)

    def free(self, track: Track) -> bool:
        """Whether the face is in no other place during a track."""
        return all(track.first > t.last or track.last < t.first for t in self.tracks)


def follow_faces(frames: Iterable[np.ndarray], landmarker: Landmarker) -> list[Person]:
    """The persons in a video, the largest first.

    frames: RGB uint8 [H, W, 3] each. A face that goes on elsewhere, after a cut for one, goes on
    in the largest person that is not in the picture at that time.
    """
    known: list[Track] = []  # in the picture
    gone: list[Track] = []
    for number, frame in enumerate(frames):
        seen = []
        for track in known:
            points = _look_again(frame, track, number - track.last, landmarker)
            if points is not None and not any(_same(points, other) for other in seen):
                track.points[number] = points
                seen.append(points)
                if len(track.points) % TURN_EVERY == 2:
                    track.turned.append(_is_turned(frame, points, landmarker))
        if not seen or number % SEARCH_EVERY == 0:
            fine = not seen and number % FINE_SEARCH_EVERY == 0
            for points in _search(frame, landmarker, fine):
                if not any(_same(points, other) for other in seen):
                    known.append(Track({number: points}))
                    seen.append(points)
        gone += [track for track in known if number - track.last >= GIVE_UP]
        known = [track for track in known if number - track.last < GIVE_UP]
    return _persons(gone + known)


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
        and abs(square.centre - middle).max() < STEADY * box_side(face)
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
    """Faces [68, 2] in a square of a frame, black where the frame ends."""
    left, top = np.round(square.corner).astype(int)
    side = round(square.side)
    part = frame[max(top, 0) : top + side, max(left, 0) : left + side]
    if not part.size:
        return []
    above, before = max(-top, 0), max(-left, 0)
    below, after = side - above - part.shape[0], side - before - part.shape[1]
    image = cv2.copyMakeBorder(part, above, below, before, after, cv2.BORDER_CONSTANT)
    return [points + np.array([left, top]) for points in landmarker.faces(image)]


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.mean(0) - b.mean(0)))


def _same(a: np.ndarray, b: np.ndarray, reach: float = 0.5) -> bool:
    """Whether two faces are one by size and by place: less than `reach` of its sides apart."""
    sides = sorted((box_side(a), box_side(b)))
    return _distance(a, b) < reach * sides[1] and sides[0] > 0.5 * sides[1]


def _persons(tracks: list[Track]) -> list[Person]:
    """The largest first."""
    persons: list[Person] = []
    for track in sorted(tracks, key=lambda t: t.size, reverse=True):
        if len(track.points) < FEWEST and persons:
            continue
        for person in persons:
            if person.free(track):
                person.tracks.append(track)
                break
        else:
            persons.append(Person([track]))
    return sorted(persons, key=lambda p: p.size, reverse=True)
