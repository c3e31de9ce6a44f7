"""Track faces through a video by their position.

A known face is searched for in a square around its last position. The whole frame is searched, in
overlapping squares, only occasionally. Thus small faces in large frames are found, too, with
landmarks as precise as those of large faces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from avhubert_ext.mouth.align import misfit
from avhubert_ext.mouth.landmarks import Landmarker
from avhubert_ext.mouth.quality import SCORE, jumps

SEARCH_EVERY = 12  # frames between searches for more faces; every frame while there is no face
FINE_SEARCH_EVERY = 25  # frames between searches for small faces, only while there is no face
FINE = 3  # the short side of the frame in squares of the fine search
SMALLEST = 128  # smallest side of a square in pixels; a face in it has at least 18
REGION = 2  # search square of a known face in sides of the face, plus one per frame that it is lost
WIDEST = 6  # largest search square in sides of the face
STEADY = 0.1  # a square is kept while the face moves or grows by less than this fraction of a side
GIVE_UP = 25  # frames without the face after which a track ends
FEWEST = 5  # frames; a shorter track is an error of the detector
SHARED = 0.1  # two tracks with more common frames (of the shorter one) are visible at once
ON = 0.5  # faces closer than this fraction of the larger one's side are the same
BESIDE = 1.0  # a lost face moves by at most this fraction of its side
TRY_EVERY = 12  # frames between tests whether a face is upside down, and a face at all
TURN_REGION = 3  # square for the test, in sides of the face
UPRIGHT = (
    6.0  # misfit in pixels: 5 for a frontal face, mostly above 7 for one upside down. With it,
)
# none of 98 upright faces of LFW, at 25x25 pixels, is classified as upside down.


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

    Attributes:
        points: Landmarks [K, 2] by frame number, in order.
        square: The last search square.
        turned: Results of the tests whether it is upside down.
        scores: Scores of the detector in these tests.
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
        """Sum of the face's sides over all frames: large if it is large and long visible."""
        return float(sum(box_side(points) for points in self.points.values()))


@dataclass
class Person:
    """The tracks of one face, the largest first. After a cut, a face may continue elsewhere."""

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
        """The number of frames in which the face was found."""
        return len(set().union(*(track.points for track in self.tracks)))

    @property
    def jumping(self) -> float:
        """The share of frames where the landmarks jump within a track."""
        jumped = steps = 0
        for track in self.tracks:
            found = jumps(np.stack(list(track.points.values())))
            following = np.diff(list(track.points)) == 1
            jumped, steps = jumped + (found & following).sum(), steps + following.sum()
        return float(jumped / max(1, steps))

    @property
    def upside_down(self) -> bool:
        """Whether most tests found the face upside down, so that its landmarks are wrong."""
        turned = [seemed for track in self.tracks for seemed in track.turned]
        return 2 * sum(turned) > len(turned)

    def free(self, track: Track) -> bool:
        """Return whether the face has no other track at the time of this one."""
        return all(track.first > t.last or track.last < t.first for t in self.tracks)

    def continues(self, track: Track) -> bool:
        """Return whether a track shows this face, judging by position, size, and time."""
        return any(_one_face(track, own) for own in self.tracks)


class Follower:
    """Tracks faces through a video, frame by frame.

    Attributes:
        known: Tracks of faces that are visible now.
        gone: Tracks that have ended.
    """

    def __init__(self, landmarker: Landmarker) -> None:
        self._landmarker = landmarker
        self._number = -1
        self.known: list[Track] = []
        self.gone: list[Track] = []

    def see(self, frame: np.ndarray) -> list[Track]:
        """Process the next frame, RGB uint8 [H, W, 3]; returns the tracks of the faces in it."""
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
        """Return the persons seen so far, the largest first.

        A track that starts elsewhere, for example after a cut, is assigned to the largest person
        who is not visible at that time.
        """
        return _persons(self.gone + self.known)


def box_side(points: np.ndarray) -> float:
    """Return the larger side of the box around landmarks [K, 2]."""
    return float(np.ptp(points, axis=0).max())


def _look_again(
    frame: np.ndarray, track: Track, ago: int, landmarker: Landmarker
) -> np.ndarray | None:
    """Find a face [68, 2] near its position of some frames ago; None if it is lost."""
    before = track.points[track.last]
    region = min(REGION + ago - 1, WIDEST)
    track.square = _steady(track.square, before, box_side(before) * region)
    found = _faces_in(frame, track.square, landmarker)
    near = [points for points in found if _same(points, before, region / 4)]
    return min(near, key=lambda points: _distance(points, before), default=None)


def _is_turned(frame: np.ndarray, face: np.ndarray, landmarker: Landmarker) -> bool:
    """Return whether a face is upside down: its landmarks only fit a face if the frame is turned.

    The detector finds such faces, but often places the eyes near the mouth.
    """
    if misfit(face) < UPRIGHT:
        return False
    side = TURN_REGION * box_side(face)
    middle = (face.min(0) + face.max(0)) / 2
    square = Square(np.array(frame.shape[1::-1]) - middle - side / 2, side)
    found = _faces_in(np.rot90(frame, 2), square, landmarker)
    return any(misfit(points) < UPRIGHT for points in found)


def _steady(square: Square | None, face: np.ndarray, side: float) -> Square:
    """Return a square of about this side around a face, the previous one if it still fits.

    Landmarks depend slightly on the square in which they are found. With a constant square, those
    of a still face have a tenth of the jitter.
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
    """Find faces [68, 2] in the whole frame, down to a seventh of its height.

    With `fine`, if there are none, down to a twentieth.
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
    """Yield squares that cover a frame and overlap by half or more."""
    height, width = shape[:2]
    for y in _steps(height, side):
        for x in _steps(width, side):
            yield Square(np.array([x, y]), side)


def _steps(length: float, side: float) -> np.ndarray:
    """Return where squares begin along one side of the frame; a single one is centered."""
    rest = length - side
    if rest <= 0:
        return np.array([rest / 2])
    return np.linspace(0, rest, 1 + int(np.ceil(2 * rest / side)))


def _faces_in(frame: np.ndarray, square: Square, landmarker: Landmarker) -> list[np.ndarray]:
    """Find faces [68, 2] in a square of a frame."""
    image, corner = _part(frame, square)
    return [points + corner for points in landmarker.faces(image)] if image.size else []


def _part(frame: np.ndarray, square: Square) -> tuple[np.ndarray, np.ndarray]:
    """Cut a square from a frame, black outside of it; also returns its corner.

    The square is empty if it is entirely outside.
    """
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
    """Return whether two faces are the same: of similar size, less than `reach` sides apart."""
    sides = sorted((box_side(a), box_side(b)))
    return _distance(a, b) < reach * sides[1] and sides[0] > 0.5 * sides[1]


def _one_face(track: Track, other: Track) -> bool:
    """Return whether two tracks show the same face.

    Tracks with more than a few common frames show two faces, unless one lies on the other: then
    the detector has found a part of the face, or more than the face, as another one. Tracks that
    alternate show one face that was lost and found again in about the same place.
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
    """Return the distance of two faces in sides of the larger one."""
    return _distance(a, b) / max(box_side(a), box_side(b))


def _persons(tracks: list[Track]) -> list[Person]:
    """Assign tracks to persons, the largest first."""
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
