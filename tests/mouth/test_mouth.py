"""The mouth region of a real, moving face, geometry, and landmark files."""

import os
import pickle
import random
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from portrait import MOUTH, STABLE, moved, movement, tone, write_clip

from avhubert_ext.data.media import video_frames
from avhubert_ext.data.video import load_video, write_video
from avhubert_ext.errors import InputError
from avhubert_ext.mouth import align
from avhubert_ext.mouth.clip import MouthClip, mouth_clips
from avhubert_ext.mouth.landmark_files import read_landmarks
from avhubert_ext.mouth.landmarks import open_landmarker
from avhubert_ext.mouth.tracks import Follower

SIZE = (320, 240)
FRAMES = 60


@pytest.fixture(scope="module")
def motion() -> np.ndarray:
    return movement(FRAMES, SIZE)


@pytest.fixture(scope="module")
def portrait(motion, tmp_path_factory) -> Path:
    """A clip of 2.4 s with sound; the face fills a fifth of the frame and moves fast."""
    path = tmp_path_factory.mktemp("portrait") / "clip.mp4"
    return write_clip(path, moved(motion, SIZE), audio=tone(FRAMES / 25))


@pytest.fixture(scope="module")
def clip(portrait):
    (clip,) = mouth_clips(portrait)
    return clip


def mapped(transforms: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply transforms [T, 2, 3] to points [..., T, 2]."""
    return np.einsum("tij,...tj->...ti", transforms[:, :, :2], points) + transforms[:, :, 2]


def off_center(clip: MouthClip, motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mouth's distance from the crop's center and its motion per frame, in pixels."""
    where = mapped(clip.transforms, mapped(motion, np.tile(MOUTH, (len(motion), 1))))
    off = np.linalg.norm(where - align.SIZE / 2, axis=1)
    steps = np.linalg.norm(np.diff(where, axis=0), axis=1)
    print(f"off by {off.mean():.2f} px, {off.max():.2f} at most; {steps.mean():.3f} px a frame")
    return off, steps


# ---- a real face


def test_the_mouth_stays_in_the_middle(clip, motion):
    """The reference is the crop that AV-HuBERT would make from dlib's landmarks."""
    off, steps = off_center(clip, motion)
    assert off.max() < 3 and steps.mean() < 0.4
    true = align.similarity(mapped(motion, STABLE[:, None].repeat(FRAMES, 1)).swapaxes(0, 1),
                            align.MEAN_FACE[[33, 36, 39, 42, 45]])  # fmt: skip
    assert align.scales(clip.transforms) == pytest.approx(align.scales(true), rel=0.06)
    tilt = np.arctan2(clip.transforms[:, 1, 0], clip.transforms[:, 0, 0])
    assert tilt == pytest.approx(np.arctan2(true[:, 1, 0], true[:, 0, 0]), abs=np.deg2rad(4))


def test_a_still_face_does_not_move(tmp_path, motion):
    still = np.repeat(motion[:1], 20, axis=0)
    (clip,) = mouth_clips(write_clip(tmp_path / "still.mp4", moved(still, SIZE)))
    assert off_center(clip, still)[1].mean() < 0.1


def test_pixels_are_those_of_the_portrait(clip, motion):
    """They differ from crops of a still face only by resampling and smoothing."""
    first = clip.video[0].astype(float)
    differences = np.abs(clip.video - first).mean(axis=(1, 2))
    assert first.std() > 25 and differences.max() < 8


def test_clip_and_its_quality(clip):
    assert clip.video.shape == (FRAMES, 96, 96) and clip.video.dtype == np.uint8
    assert clip.audio.shape == (FRAMES * 640,) and clip.audio.dtype == np.int16
    quality = clip.quality
    assert (quality.frames, quality.missing, quality.faces) == (FRAMES, 0, 1)
    assert quality.scale == pytest.approx(1.27, abs=0.15) and 4 < quality.motion < 20
    assert quality.outside == 0
    assert len(clip.pictures) == 8


def test_small_face_in_a_large_frame(tmp_path):
    """It has 40 of 1280 pixels, and is found in squares as precisely as a large one."""
    size = (1280, 720)
    motion = movement(20, size, 0.4)[::5]  # nearly still
    motion[:, :, 2] = motion[0, :, 2]
    (clip,) = mouth_clips(write_clip(tmp_path / "wide.mp4", moved(motion, size)))
    assert off_center(clip, motion)[0].max() < 4
    assert clip.quality.missing == 0 and clip.quality.scale > 2


def test_frames_without_a_face_are_interpolated(tmp_path, motion):
    still = np.repeat(motion[:1], 30, axis=0)
    frames = moved(still, SIZE)
    for t in (0, 10, 11, 12, 29):
        frames[t] = np.full_like(frames[t], 90)
    (clip,) = mouth_clips(write_clip(tmp_path / "gaps.mp4", frames))
    assert clip.quality.missing == 5
    assert off_center(clip, still)[0].max() < 3


@pytest.mark.slow
def test_several_faces(tmp_path, motion):
    """The second face is half as large and appears later."""
    frames = []
    for t, frame in enumerate(moved(motion[:30], SIZE)):
        second = cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        beside = np.full((240, 160, 3), 90, np.uint8)
        if t >= 10:
            beside[60:180] = second
        frames.append(np.hstack([beside, frame]))
    path = write_clip(tmp_path / "two.mp4", frames)
    first, second = mouth_clips(path, "all")
    assert (first.face, second.face) == (1, 2)
    assert first.quality.missing == 0 and 10 <= second.quality.missing <= 22
    assert second.quality.scale == pytest.approx(2 * first.quality.scale, rel=0.1)
    (alone,) = mouth_clips(path, 2)
    assert np.array_equal(alone.video, second.video)
    with pytest.raises(InputError, match="no face 3: found 2"):
        mouth_clips(path, 3)


def test_cut_to_another_place(tmp_path):
    """The face continues elsewhere: it is one person, without smoothing across the cut."""
    size = (640, 240)
    places = np.repeat(movement(1, SIZE), 40, axis=0)
    places[20:, 0, 2] += 320
    (clip,) = mouth_clips(write_clip(tmp_path / "cut.mp4", moved(places, size)))
    where = mapped(clip.transforms, mapped(places, np.tile(MOUTH, (40, 1))))
    off = np.linalg.norm(where - 48, axis=1) > 4
    assert clip.quality.faces == 1 and off.sum() <= 3


def test_no_face(tmp_path):
    path = write_clip(tmp_path / "empty.mp4", [np.full((240, 320, 3), 90, np.uint8)] * 5)
    with pytest.raises(InputError, match=r"empty\.mp4: no face found"):
        mouth_clips(path)


def test_face_upside_down_is_rejected(tmp_path, motion):
    """Its landmarks would be wrong in every frame, although none would be missing."""
    frames = [np.ascontiguousarray(frame[::-1, ::-1]) for frame in moved(motion[:15], SIZE)]
    path = write_clip(tmp_path / "turned.mp4", frames)
    with pytest.raises(InputError, match=r"turned\.mp4: the face is upside down; turn the video"):
        mouth_clips(path)


def test_progress_counts_each_frame_once(portrait):
    told = []
    mouth_clips(portrait, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, FRAMES) for n in range(1, FRAMES + 1)]


def test_newer_interface_of_mediapipe(tmp_path):
    """The models of the wheel are put into a .task file, whose graph reads landmarks differently:
    this tests the use of the interface, not the positions of the points."""
    mediapipe = pytest.importorskip("mediapipe")
    models = Path(mediapipe.__file__).parent / "modules"
    task = tmp_path / "face_landmarker.task"
    with zipfile.ZipFile(task, "w") as archive:
        archive.write(
            models / "face_detection/face_detection_short_range.tflite", "face_detector.tflite"
        )
        archive.write(
            models / "face_landmark/face_landmark.tflite", "face_landmarks_detector.tflite"
        )
    (frame,) = moved(movement(1, SIZE), SIZE)
    with open_landmarker(task) as landmarker:
        (face,) = landmarker.faces(frame)
    assert face.shape == (68, 2)
    task.write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"not a face_landmarker\.task"), open_landmarker(task):
        pass


# ---- geometry


def test_similarity_is_the_least_squares_one():
    rng = np.random.default_rng(1)
    source, target = rng.normal(size=(3, 7, 2)), rng.normal(size=(7, 2))
    for points, found in zip(source, align.similarity(source, target), strict=True):
        x, y = points.T
        zero, one = np.zeros(7), np.ones(7)
        system = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
        (a, b, dx, dy), *_ = np.linalg.lstsq(system, target.T.reshape(-1), rcond=None)
        assert found == pytest.approx(np.array([[a, -b, dx], [b, a, dy]]))


def test_smoothing_averages_shapes_and_keeps_places():
    points = np.random.default_rng(1).normal(size=(20, 5, 2)) + np.arange(20)[:, None, None]
    for t, smoothed in enumerate(align.smooth(points)):
        reach = min(t, 19 - t, 6)
        shape = points[t - reach : t + reach + 1].mean(0)
        assert smoothed == pytest.approx(shape - shape.mean(0) + points[t].mean(0))


def test_gaps_are_interpolated_and_ends_are_constant():
    filled = align.fill_gaps({1: np.full((4, 2), 1.0), 4: np.full((4, 2), 7.0)}, 6)
    assert filled[:, 0, 0] == pytest.approx([1, 1, 3, 5, 7, 7])


def test_mean_face_and_its_four_parts():
    assert align.MEAN_FACE.shape == (68, 2)
    published = [
        [102.0739, 94.2723],
        [156.3613, 93.5782],
        [129.0038, 135.9034],
        [129.3134, 157.8230],
    ]
    assert align.SCHEMES[4].reference == pytest.approx(np.array(published), abs=0.01)


def test_mean_face_itself_is_cropped_around_its_mouth():
    for count, points in ((68, align.MEAN_FACE), (4, align.SCHEMES[4].reference)):
        (transform,) = align.mouth_transforms(points[None])
        mouth = points[list(align.SCHEMES[count].mouth)].mean(0)
        assert transform[:, :2] == pytest.approx(np.eye(2), abs=1e-9)
        assert transform[:, 2] == pytest.approx(48 - mouth)


def test_large_faces_are_averaged_not_subsampled():
    """A pattern finer than the crop's pixels becomes its mean, in the right place."""
    image = np.zeros((960, 960), np.uint8)
    image[:, ::2] = 200
    image[:480] //= 2
    transform = np.array([[0.1, 0, 0], [0, 0.1, 0]])
    crop = align.warp(image, transform, shrink=10)
    assert crop[10:40, 10:86] == pytest.approx(50, abs=1) and crop[56:90, 10:86] == pytest.approx(
        100, abs=1
    )
    assert crop[47, 50] < 60 < 90 < crop[49, 50]


def test_share_outside():
    halfway = np.array([[[1.0, 0, 48], [0, 1, 0]]])  # the image's left edge in the crop's middle
    assert align.share_outside((200, 200), halfway) == pytest.approx(0.5, abs=0.07)


# ---- landmark files


def test_landmark_files_give_the_crop_of_the_detector(tmp_path, portrait, clip):
    """As in AV-HuBERT: a pickled list with an array or None per frame."""
    with open_landmarker() as landmarker:
        follower = Follower(landmarker)
        for frame in video_frames(portrait):
            follower.see(frame)
    (person,) = follower.persons()
    (track,) = person.tracks
    rows = [track.points[t] for t in range(FRAMES)]
    for name in ("a.pkl", "a.npy", "a.npz"):
        path = tmp_path / name
        if name.endswith("pkl"):
            path.write_bytes(pickle.dumps(rows))
        elif name.endswith("npy"):
            np.save(path, np.stack(rows))
        else:
            np.savez(path, landmarks=np.stack(rows))
        (other,) = mouth_clips(portrait, landmarks=path)
        assert np.array_equal(other.video, clip.video)


def test_four_landmarks_and_missing_frames(tmp_path, portrait, motion):
    """As in Auto-AVSR with mediapipe's detector: eyes, nose, mouth, as integers."""
    eyes = [STABLE[1:3].mean(0), STABLE[3:5].mean(0)]
    parts = np.array([*eyes, STABLE[0], MOUTH])
    moving = mapped(motion, parts[:, None].repeat(FRAMES, 1)).swapaxes(0, 1)
    rows = list(np.round(moving).astype(int))
    rows[5] = rows[20] = None
    (tmp_path / "4.pkl").write_bytes(pickle.dumps(rows))
    (clip,) = mouth_clips(portrait, landmarks=tmp_path / "4.pkl")
    where = mapped(clip.transforms, mapped(motion, np.tile(MOUTH, (FRAMES, 1))))
    assert clip.quality.missing == 2
    assert np.linalg.norm(where - 48, axis=1).max() < 3


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_read_as_numpy_reads_them(tmp_path, protocol):
    rng = np.random.default_rng(1)
    path = tmp_path / "x.pkl"
    for rows in (
        [rng.normal(size=(68, 2)), None, rng.normal(size=(68, 2)).astype(">f4")],
        [np.asfortranarray(rng.normal(size=(4, 2))), [[1, 2], [3, 4], [5, 6], [7.5, 8]], None],
        rng.integers(0, 99, (3, 68, 2)),
    ):
        path.write_bytes(pickle.dumps(rows, protocol))
        count, found = read_landmarks(path)
        assert count == 3
        assert sorted(found) == [t for t in range(3) if rows[t] is not None]
        assert all(np.array_equal(points, rows[t]) for t, points in found.items())


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_random_damage_to_a_pickle(tmp_path, protocol):
    """Reading gives numbers or one error. The usual unpickler would crash for some of them."""
    whole = pickle.dumps([np.zeros((68, 2)), None], protocol)
    rng = random.Random(1)
    path, outcomes = tmp_path / "x.pkl", set()
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 3, 20))):
            damaged[rng.randrange(300)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_landmarks(path)
            outcomes.add("read")
        except InputError as error:
            assert str(path) in str(error) and len(str(error).splitlines()) == 1
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_code_in_a_landmark_file_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps([np.zeros((68, 2)), Evil()]))
    with pytest.raises(InputError, match=r"evil\.pkl: rejected.*mkdir"):
        read_landmarks(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("rows", "about"),
    [
        ([np.zeros((67, 2))] * 2, r"frame 0 has shape \[67, 2\]"),
        ([None, None], "no frame with a face"),
        ([np.zeros((4, 2)), np.zeros((68, 2))], "68 landmarks, others 4"),
        ([np.full((68, 2), np.nan)] * 2, "no frame with a face"),
        (["left", "right"], "frame 0 has shape"),
        ({"a": 1}, "contains a dict"),
        (3.0, "contains a float"),
    ],
)
def test_malformed_landmark_files(tmp_path, rows, about):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(rows))
    with pytest.raises(InputError, match=rf"x\.pkl: .*{about}"):
        read_landmarks(path)


def test_landmarks_of_another_number_of_frames(tmp_path, portrait):
    np.save(tmp_path / "x.npy", np.tile(align.MEAN_FACE, (FRAMES + 1, 1, 1)))
    expected = rf"x\.npy: .* of {FRAMES + 1} frames, but the video has {FRAMES}"
    with pytest.raises(InputError, match=expected):
        mouth_clips(portrait, landmarks=tmp_path / "x.npy")


@pytest.mark.parametrize("size", [0, 1e-3, 1e9])
def test_landmarks_that_are_not_a_face(tmp_path, portrait, size):
    np.save(tmp_path / "x.npy", np.tile(size * align.MEAN_FACE, (FRAMES, 1, 1)))
    with pytest.raises(InputError, match=r"x\.npy: not landmarks of a face"):
        mouth_clips(portrait, landmarks=tmp_path / "x.npy")


def test_damaged_landmark_files(tmp_path):
    whole = pickle.dumps([np.zeros((68, 2))] * 2)
    for name, content in (("a.pkl", whole[:-20]), ("b.npy", b"x"), ("c.npz", b""), ("d.pkl", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: .*copy it again"):
            read_landmarks(tmp_path / name)
    with pytest.raises(InputError, match="not found"):
        read_landmarks(tmp_path / "e.pkl")


# ---- ready-made mouth regions


def test_ready_made_clip_passes_unchanged(tmp_path):
    path = tmp_path / "ready.mp4"
    write_video(path, np.random.default_rng(1).integers(0, 256, (20, 96, 96), np.uint8), 25)
    (clip,) = mouth_clips(path)
    assert np.array_equal(clip.video, load_video(path))
    with pytest.raises(InputError, match="no face 2: found 1"):
        mouth_clips(path, 2)
    assert clip.points is None and clip.quality.faces == 0
