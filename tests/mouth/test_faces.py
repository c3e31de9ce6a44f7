"""Choice and quality of faces, the speaking face, mouth regions of any size, single decoding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import run
from portrait import MOUTH, moved, movement, tone, write_clip
from serving import utterance
from skimage import data

from avhubert_ext.data.media import MediaLimits, video_frames
from avhubert_ext.mouth import align, clip
from avhubert_ext.mouth.clip import NoFaceError, mouth_clips
from avhubert_ext.mouth.crops import Crops, Recent, Reel, Thumbnails, shrink_of
from avhubert_ext.mouth.landmarks import Landmarker, open_landmarker
from avhubert_ext.mouth.quality import Quality
from avhubert_ext.mouth.region import lips_move
from avhubert_ext.mouth.sheet import sample_times
from avhubert_ext.mouth.speaker import opening, speaking
from avhubert_ext.mouth.tracks import Follower, Track

SIZE = (320, 240)
GRAY = np.full((240, 320, 3), 90, np.uint8)


def refused(path: Path, **options) -> str:
    with pytest.raises(NoFaceError) as caught:
        mouth_clips(path, **options)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


# ---- quality


@pytest.mark.slow
@pytest.mark.parametrize(("seen", "frames"), [(1, 75), (3, 75), (12, 60)])
def test_a_rarely_seen_face_is_rejected(tmp_path: Path, seen: int, frames: int) -> None:
    """A single frame with a face must not become the mouth region of all 75."""
    face = cv2.resize(data.astronaut()[:260, 90:350], (128, 128), interpolation=cv2.INTER_AREA)
    wall = np.full_like(face, 90)
    path = write_clip(tmp_path / "rare.mp4", [face] * seen + [wall] * (frames - seen))
    expected = f"no face in {frames - seen} of {frames} frames; give a video with a visible face"
    assert refused(path) == expected
    assert refused(path, faces="all") == expected


def test_a_late_face_is_a_warning(tmp_path: Path) -> None:
    motion = movement(30, SIZE)
    path = write_clip(tmp_path / "late.mp4", [GRAY] * 30 + moved(motion, SIZE))
    (found,) = mouth_clips(path)
    assert found.warnings == ("no face in 30 of 60 frames, first seen at 1.2 s",)
    assert found.seen.tolist() == [False] * 30 + [True] * 30
    assert (found.quality.missing, found.quality.first) == (30, 1.2)
    assert (found.video[:30] == found.video[30]).all(), "the nearest mouth is held"


def robot(number: int) -> np.ndarray:
    """Draw eyes, a nose, and a mouth in random colors: RGB [240, 320, 3]."""
    colors = np.random.default_rng(number).integers(0, 256, (6, 3)).tolist()
    image = np.full((240, 320, 3), colors[5], np.uint8)
    cv2.rectangle(image, (90, 30), (230, 220), colors[0], -1)
    for x in (125, 195):
        cv2.circle(image, (x, 90), 14, colors[1], -1)
        cv2.circle(image, (x, 90), 7, colors[2], -1)
    cv2.rectangle(image, (120, 160), (200, 185), colors[3], -1)
    cv2.line(image, (160, 100), (160, 140), colors[4], 4)
    return image


@pytest.mark.slow
def test_objects_detected_as_a_face_are_rejected(tmp_path: Path) -> None:
    """The detector finds faces in drawings and a rocket; its score of a real face is high."""
    for name, image in (("a", robot(159)), ("b", robot(307)), ("c", data.rocket()[:426])):
        refused(write_clip(tmp_path / f"{name}.mp4", [image] * 6))
    (found,) = mouth_clips(write_clip(tmp_path / "face.mp4", moved(movement(16, SIZE), SIZE)))
    assert found.quality.score > 0.85 and found.warnings == ()


def test_letters_have_no_mouth(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "abc":
        image = np.full((240, 320, 3), rng.integers(0, 256, 3), np.uint8)
        for n in range(4):
            place = (int(rng.integers(0, 260)), int(rng.integers(100, 240)))
            color = rng.integers(0, 256, 3).tolist()
            cv2.putText(image, chr(rng.integers(65, 91)), place, n, 3.0 + n, color, 9)
        refused(write_clip(tmp_path / f"{name}.mp4", [image] * 3))


GOOD = Quality(frames=100, missing=0, faces=1, scale=1.0, motion=1.0, outside=0.0, score=0.9)


@pytest.mark.parametrize(
    ("name", "warned", "refused", "words"),
    [
        ("missing", 11, 91, "no face in {} of 100 frames"),
        ("scale", 2.1, 5.1, "the face is small (the mouth is enlarged {:.1f} times)"),
        ("score", 0.74, 0.6, "this may not be a face (the score of the detector is {})"),
        ("outside", 0.12, 0.6, "{:.0%} of the mouth region is outside the frame"),
        ("jumping", 0.05, 0.3, "the landmarks of the face jump in {:.0%} of the frames"),
    ],
)
def test_thresholds(name: str, warned: float, refused: float, words: str) -> None:
    assert GOOD.warnings == () and GOOD.refusal is None
    poor = Quality(**{**vars(GOOD), name: warned})
    assert poor.warnings == (words.format(warned),) and poor.refusal is None
    assert Quality(**{**vars(GOOD), name: refused}).refusal == words.format(refused)


def test_short_clips_and_damaged_frames() -> None:
    short = Quality(**{**vars(GOOD), "frames": 10, "missing": 4})
    assert short.refusal is None and Quality(**{**vars(short), "missing": 6}).refusal
    damaged = Quality(**{**vars(GOOD), "damaged": 3})
    assert damaged.warnings == ("damaged frames in the video: 3",) and damaged.refusal is None


# ---- tracks


def face(x: float, y: float, size: float = 1.0, turn: float = 0.0) -> np.ndarray:
    """Return the mean face, 125 pixels large, centered at (x, y)."""
    turn = np.deg2rad(turn)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return size * (align.MEAN_FACE - align.MEAN_FACE.mean(0)) @ rotation.T + (x, y)


def persons(*tracks: dict[int, np.ndarray]) -> list[list[int]]:
    """Return the number of frames in the tracks of each person."""
    follower = Follower(Landmarker(lambda image: []))
    follower.gone = [Track(track) for track in tracks]
    return [[len(track.points) for track in person.tracks] for person in follower.persons()]


def test_one_face_that_is_lost_and_found_is_one_person() -> None:
    """In profile, the detected position and size of a face vary."""
    long = {t: face(200, 200) for t in range(0, 100) if not 30 <= t < 60}
    between = {t: face(240, 210, 0.8) for t in range(32, 50)}
    later = {t: face(160, 190, 1.2) for t in range(95, 140)}
    part = {t: face(215, 205, 0.45) for t in range(60, 90)}  # found within the face itself
    assert persons(long, between, later, part) == [[70, 45, 18, 30]]


def test_two_faces_are_two_persons() -> None:
    left = {t: face(200, 200) for t in range(100)}
    right = {t: face(400, 200) for t in range(0, 100, 2)}
    assert persons(left, right) == [[100], [50]]
    after_a_cut = {t: face(600, 100, 0.5) for t in range(100, 150)}
    assert persons(left, after_a_cut) == [[100, 50]]


def test_jumping_landmarks_are_measured() -> None:
    steady = Track({t: face(200 + t, 200, 1 + t / 500, turn=t) for t in range(40)})
    jumpy = Track({t: face(200, 200, turn=20 * (t % 8 == 0)) for t in range(40)})
    follower = Follower(Landmarker(lambda image: []))
    for track, jumping in ((steady, 0.0), (jumpy, 9 / 39)):
        follower.gone = [track]
        (person,) = follower.persons()
        assert person.jumping == pytest.approx(jumping)


def test_a_good_face_is_preferred_to_a_rare_one(tmp_path: Path) -> None:
    """A larger face that is visible only for a moment is not used."""
    (large,) = talking(np.zeros(1))
    frames = []
    for t in range(40):
        left = large if t < 8 else np.full_like(large, 90)
        right = np.full((260, 160, 3), 90, np.uint8)
        right[50:210] = cv2.resize(large, (160, 160), interpolation=cv2.INTER_AREA)
        frames.append(np.hstack([left, right]))
    (found,) = mouth_clips(write_clip(tmp_path / "two.mp4", frames))
    assert found.quality.faces == 1 and found.points[..., 0].mean() > 260
    assert found.quality.missing == 0 and found.notes == ()


# ---- who speaks


def talking(amounts: np.ndarray) -> list[np.ndarray]:
    """Draw the portrait with its lips apart by a number of pixels: RGB [T, 260, 260, 3]."""
    image = data.astronaut()
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    near = np.exp(-(((x - MOUTH[0]) / 14) ** 2)).astype(np.float32)
    under = y - np.float32(MOUTH[1])
    frames = []
    for amount in amounts:
        shift = np.float32(amount) * near * under.clip(0, 1) * np.exp(-under.clip(0) / 25)
        frame = cv2.remap(image, x, y - shift.astype(np.float32), cv2.INTER_LINEAR)
        frame[(np.abs(x - MOUTH[0]) < 13) & (under > 0) & (under < amount * near)] = (40, 10, 10)
        frames.append(frame[:260, 90:350])
    return frames


SYLLABLES = np.abs(np.sin(np.arange(50) * 0.45)) * (np.arange(50) % 25 < 18)


def sound_of(amounts: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 3000, len(amounts) * 640)
    return (noise * np.repeat(amounts, 640)).astype(np.int16)


def beside_poster(small: list[np.ndarray]) -> list[np.ndarray]:
    """Put a large still face on the left, and small ones on the right: RGB [T, 260, 420, 3]."""
    (poster,) = talking(np.zeros(1))
    frames = []
    for picture in small:
        right = np.full((260, 160, 3), 90, np.uint8)
        right[50:210] = cv2.resize(picture, (160, 160), interpolation=cv2.INTER_AREA)
        frames.append(np.hstack([poster, right]))
    return frames


@pytest.fixture(scope="module")
def poster_and_speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("two") / "two.mp4"
    return write_clip(path, beside_poster(talking(9 * SYLLABLES)), audio=sound_of(SYLLABLES))


@pytest.mark.slow
def test_the_speaker_is_chosen_not_the_poster(poster_and_speaker: Path) -> None:
    (found,) = mouth_clips(poster_and_speaker, "speaking")
    assert found.face == 2 and found.notes == ("2 faces; using face 2 (right), which speaks",)
    assert 260 < found.points[..., 0].mean() < 420
    (largest,) = mouth_clips(poster_and_speaker)
    assert largest.face == 1 and largest.notes == ("2 faces; using the largest",)


@pytest.mark.slow
def test_nobody_speaks_or_there_is_no_sound(tmp_path: Path) -> None:
    frames = beside_poster(talking(np.zeros(30)))
    (found,) = mouth_clips(write_clip(tmp_path / "a.mp4", frames), "speaking")
    expected = "2 faces; there is no sound, using the largest"
    assert found.face == 1 and found.notes == (expected,)
    path = write_clip(tmp_path / "b.mp4", frames, audio=sound_of(SYLLABLES[:30]))
    (found,) = mouth_clips(path, "speaking")
    assert found.notes == ("2 faces; it is not clear who speaks, using the largest",)


def lips(amounts: np.ndarray, start: int = 0) -> dict[int, np.ndarray]:
    """Return mean faces with the inner lower lip lowered by a number of pixels."""
    faces = {}
    for t, amount in enumerate(amounts, start):
        faces[t] = align.MEAN_FACE.copy()
        faces[t][65:68, 1] += amount
    return faces


def test_lips_that_move_with_the_sound() -> None:
    """They are preferred to lips that move as much at other times, in either order."""
    rng = np.random.default_rng(0)
    said = np.convolve(rng.uniform(0, 10, 150), np.ones(5) / 5, "same")
    other = np.convolve(rng.uniform(0, 10, 150), np.ones(5) / 5, "same")
    faces = [lips(other), lips(said), lips(rng.normal(0, 0.1, 150))]
    for order in itertools.permutations(range(3)):
        assert order[speaking([faces[n] for n in order], sound_of(said / 10))] == 1
    assert speaking([lips(said), lips(said)], sound_of(said / 10)) is None
    assert speaking([lips(said[:20])], sound_of(said / 10)) is None
    assert opening(np.stack(list(lips(said).values()))).std() > 0.01


# ---- mouth regions of any size


@pytest.fixture(scope="module")
def mouth_region() -> np.ndarray:
    return utterance(1).frames


@pytest.mark.parametrize("side", [88, 112, 128, 160])
def test_mouth_regions_are_scaled_once(tmp_path: Path, mouth_region: np.ndarray, side: int) -> None:
    """They must not be searched for a face and cropped again."""
    kind = cv2.INTER_AREA if side < 96 else cv2.INTER_CUBIC
    frames = [cv2.resize(frame, (side, side), interpolation=kind) for frame in mouth_region]
    frames = [cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB) for frame in frames]
    (found,) = mouth_clips(write_clip(tmp_path / "mouth.mp4", frames))
    off = np.abs(found.video.astype(float) - mouth_region)
    assert found.video.shape == mouth_region.shape and off.mean() < 3
    assert found.notes == (f"treated as a mouth region of {side}x{side} pixels, scaled to 96x96",)
    assert found.quality.faces == 0 and found.seen.all()


def test_small_faces_are_not_mouth_regions(tmp_path: Path) -> None:
    """A talking head of 128x128 pixels, also with the option that it is a mouth region."""
    small = [
        cv2.resize(f, (128, 128), interpolation=cv2.INTER_AREA) for f in talking(9 * SYLLABLES)
    ]
    path = write_clip(tmp_path / "face.mp4", small[:30])
    (found,) = mouth_clips(path)
    assert found.quality.faces == 1 and found.points is not None
    (told,) = mouth_clips(path, mouth=True)
    expected = cv2.resize(cv2.cvtColor(small[0], cv2.COLOR_RGB2GRAY), (96, 96))
    assert np.abs(told.video[0].astype(float) - expected).mean() < 5
    wide = write_clip(tmp_path / "wide.mp4", [np.full((96, 192, 3), 90, np.uint8)] * 3)
    with pytest.raises(Exception, match=r"192x96 pixels.* a mouth region is square"):
        mouth_clips(wide, mouth=True)


def test_small_squares_without_a_mouth(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 128, 128, 3), np.uint8)
    for name, frames in (
        ("wall", noise * 0 + 90),
        ("noise", noise),
        ("still", noise[:1].repeat(9, 0)),
    ):
        path = write_clip(tmp_path / f"{name}.mp4", list(frames))
        assert refused(path).startswith("no face found in it")
    assert not lips_move(noise[:1, :, :, 0])


# ---- decoding once


def two_passes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Crop the only face in a second pass over the video; also returns where it was found."""
    with open_landmarker() as landmarker:
        follower = Follower(landmarker)
        for frame in video_frames(path):
            follower.see(frame)
    (person,) = follower.persons()
    frames = list(video_frames(path))
    known = sorted(person.points)
    points = align.fill_gaps(
        {t - known[0]: p for t, p in person.points.items()}, known[-1] - known[0] + 1
    )
    transforms = align.mouth_transforms(align.smooth(points))
    shrink = max(1, int(1 / np.median(align.scales(transforms))))
    crops = np.stack(
        [
            align.warp(cv2.cvtColor(frames[known[0] + t], cv2.COLOR_RGB2GRAY), transform, shrink)
            for t, transform in enumerate(transforms)
        ]
    )
    return crops, np.array(known)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_crops_are_those_of_two_passes(tmp_path: Path, monkeypatch, scale: float) -> None:
    """With gaps, a late start, and an early end, although the video is decoded only once."""
    size = (round(640 * scale), round(480 * scale))
    frames = moved(movement(70, size, 2.2 * scale), size)
    for t in (*range(8), 20, *range(30, 38), *range(60, 70)):
        frames[t] = np.full_like(frames[t], 90)
    path = write_clip(tmp_path / "gaps.mp4", frames)
    decoded = []

    def counted(*args: object) -> Iterator[np.ndarray]:
        decoded.append(0)
        for frame in video_frames(*args):
            decoded[-1] += 1
            yield frame

    monkeypatch.setattr(clip, "video_frames", counted)
    (found,) = mouth_clips(path)
    assert decoded == [70]
    crops, known = two_passes(path)
    inside = found.video[known[0] : known[-1] + 1]
    assert np.array_equal(inside, crops)
    assert np.flatnonzero(found.seen).tolist() == known.tolist()
    assert (found.video[: known[0]] == crops[0]).all() and (
        found.video[known[-1] :] == crops[-1]
    ).all()


def test_only_the_last_frames_are_kept() -> None:
    """Six frames while the face is visible, otherwise all since it was lost."""
    recent, crops, reel, kept = Recent(), Crops(), Reel(0), []
    for t in range(100):
        recent.add(np.full((300, 300), t, np.uint8))
        if not 40 <= t < 60:
            reel.add(t, face(150, 150))
        reel.crop(recent, crops, ended=False)
        recent.forget(reel.due)
        kept.append(t + 1 - reel.due)
    reel.crop(recent, crops, ended=True)
    assert max(kept[:40]) == align.HALF_WINDOW and max(kept) == align.HALF_WINDOW + 20
    assert kept[-1] == align.HALF_WINDOW
    assert crops.take(np.arange(100))[:, 48, 48].tolist() == list(range(100))


def test_long_clips_are_memory_mapped(monkeypatch) -> None:
    monkeypatch.setattr("avhubert_ext.mouth.crops.IN_MEMORY", 20 * 96 * 96)
    crops = Crops()
    for t in range(30):
        crops.add(np.full((96, 96), t, np.uint8))
    taken = crops.take(np.arange(29, -1, -1))
    assert isinstance(taken, np.memmap) and taken[:, 5, 5].tolist() == list(range(29, -1, -1))
    assert not isinstance(crops.take(np.arange(5)), np.memmap)


def test_shrinking_does_not_flicker() -> None:
    """A face whose size varies around a threshold keeps its factor; an approaching one does not."""
    factor = shrink_of(0.51, 0)
    assert factor == 1 and {shrink_of(s, 1) for s in (0.52, 0.49, 0.45, 0.55)} == {1}
    assert shrink_of(0.33, 1) == 3 and shrink_of(0.9, 3) == 1 and shrink_of(2.0, 0) == 1


@pytest.mark.parametrize("frames", [1, 5, 65, 1000, 90_001])
def test_pictures_of_a_video_of_any_length(frames: int) -> None:
    thumbnails = Thumbnails()
    tiny = np.zeros((2, 2, 3), np.uint8)
    for number in range(frames):
        thumbnails.see(number, tiny)
    wanted = sample_times(frames)
    found = [t for t, _ in thumbnails.nearest(wanted)]
    assert len(found) == len(wanted)
    assert np.abs(np.subtract(found, wanted)).max() <= frames / 30


# ---- limits and output


def test_length_is_checked_before_decoding(tmp_path: Path) -> None:
    calls = []
    path = write_clip(tmp_path / "long.mp4", [GRAY] * 60)
    with pytest.raises(Exception, match=r"long\.mp4: longer than the limit of 1 s"):
        mouth_clips(path, limits=MediaLimits(seconds=1), progress=lambda *done: calls.append(done))
    assert not calls


def test_unused_sound_is_reported(tmp_path: Path) -> None:
    frames = moved(movement(30, SIZE), SIZE)
    (found,) = mouth_clips(write_clip(tmp_path / "a.mp4", frames, audio=tone(3.0)))
    assert len(found.audio) == 30 * 640
    (note,) = found.warnings
    assert note == "0.0 s of sound before the first frame and 1.8 s after the last are not used"


@pytest.mark.slow
def test_mediapipe_prints_nothing(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "face.mp4", moved(movement(15, SIZE), SIZE))
    code = (
        "from avhubert_ext.mouth.clip import mouth_clips\n"
        "from pathlib import Path\n"
        f"print(len(mouth_clips(Path({str(path)!r}))))\n"
    )
    result = run("python", "-c", code)
    assert (result.returncode, result.stdout) == (0, "1\n")
