"""Visual noise: each type follows its formula and grows with its level; draws are uniform."""

import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest

from avhubert_ext.cli import main
from avhubert_ext.data.noise import hashed_generator
from avhubert_ext.data.video import load_video, write_video
from avhubert_ext.data.visual_noise import (
    LEVELS,
    PAPER_TYPES,
    TRAINING_TYPES,
    TYPES,
    UNSEEN_TYPES,
    VisualNoiseConfig,
    VisualNoiseDraw,
    add_visual_noise,
    draw_visual_noise,
    h264,
    line_kernel,
)
from avhubert_ext.errors import InputError
from avhubert_ext.reports import noise_preview
from avhubert_ext.synth.mouth import Face, render
from avhubert_ext.synth.visemes import PARAMETERS


def rng(*key: object) -> np.random.Generator:
    return hashed_generator("visual", *key)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """A moving mouth, uint8 [30, 96, 96], read-only."""
    phases = np.arange(30)[:, None] / 25 * np.linspace(3, 9, len(PARAMETERS))
    frames = render(0.5 + 0.5 * np.sin(phases), Face(), np.random.default_rng(0))
    frames.flags.writeable = False
    return frames


@pytest.fixture(scope="module")
def smooth() -> np.ndarray:
    """Waves of many lengths, three pixels or more: uint8 [2, 60, 70]."""
    y, x = np.mgrid[:60, :70]
    waves = [np.sin(x / a + y / b) for a, b in ((0.9, 1.3), (2.0, -1.5), (9.0, 5.0))]
    frame = np.rint(128 + 40 * sum(waves)).astype(np.uint8)
    return np.stack([frame, frame.T[:60, :60].repeat(2, axis=1)[:, :70]])


def difference(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left.astype(int) - right).mean())


@pytest.mark.parametrize("kind", TYPES)
def test_effect_grows_with_the_level(clip, kind):
    noised = [add_visual_noise(clip, kind, level, rng(0)) for level in range(LEVELS + 1)]
    assert all(n.shape == clip.shape and n.dtype == np.uint8 for n in noised)
    assert np.array_equal(noised[0], clip)
    effects = [difference(n, clip) for n in noised]
    assert np.all(np.diff(effects) > 0), effects
    assert effects[1] > 0.3 and effects[LEVELS] > 1.5 * effects[1]


@pytest.mark.parametrize("kind", TYPES)
def test_parameters_are_monotonic(kind):
    assert len(TYPES[kind].parameters) == LEVELS
    steps = np.diff(TYPES[kind].parameters)
    assert np.all(steps > 0) or np.all(steps < 0)


def test_first_and_last_levels_are_those_of_the_reference():
    ends = {kind: (t.parameters[0], t.parameters[-1]) for kind, t in TYPES.items()}
    assert ends["gaussian_blur"] == (7 / 6, 21 / 6)
    assert ends["pixelation"] == (2, 6)
    assert ends["compression"] == (30, 40)
    assert ends["contrast"] == (0.85, 0.35)
    assert ends["jpeg"] == (25, 7)
    deviations = (1.1644 * 0.001**0.5, 1.1644 * 0.05**0.5)
    assert ends["gaussian_noise"] == pytest.approx(deviations, rel=1e-3)
    # Level 5 of ten is level 2 7/9 of five.
    assert TYPES["compression"].parameters[4] == pytest.approx(32 + 7 / 9 * 3)


@pytest.mark.parametrize("kind", TYPES)
def test_the_same_key_gives_the_same_noise(clip, kind):
    noised = add_visual_noise(clip, kind, 6, rng(1, "a"))
    assert np.array_equal(noised, add_visual_noise(clip, kind, 6, rng(1, "a")))
    random = kind in ("block", "motion_blur", "gaussian_noise")
    assert np.array_equal(noised, add_visual_noise(clip, kind, 6, rng(1, "b"))) != random


def test_h264_is_the_same_in_another_process(clip, tmp_path):
    np.save(tmp_path / "clip.npy", clip)
    code = (
        "import numpy as np, sys, zlib\n"
        "from avhubert_ext.data.visual_noise import add_visual_noise\n"
        "noised = add_visual_noise(np.load(sys.argv[1], mmap_mode='r'), 'compression', 7, None)\n"
        "print(zlib.crc32(noised))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "clip.npy")]
    sums = {subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2)}
    assert len(sums) == 1


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(1, 96, 96), (3, 89, 95), (2, 17, 6), (2, 200, 301)])
def test_any_size(kind, shape):
    frames = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    before = frames.copy()
    noised = add_visual_noise(frames, kind, LEVELS, rng(0))
    assert noised.shape == shape and noised.dtype == np.uint8
    assert difference(noised, frames) > 0
    assert np.array_equal(frames, before)


@pytest.mark.parametrize("kind", TYPES)
def test_noise_of_a_mirrored_view_equals_that_of_its_copy(clip, kind):
    window = clip[:4, 4:92, 3:91][:, :, ::-1]
    assert np.array_equal(
        add_visual_noise(window, kind, 5, rng(0)),
        add_visual_noise(np.ascontiguousarray(window), kind, 5, rng(0)),
    )


def test_blocks_cover_their_share():
    frames = np.zeros((50, 96, 96), np.uint8)
    for level in range(1, LEVELS + 1):
        noised = add_visual_noise(frames, "block", level, rng(level))
        assert set(np.unique(noised)) == {0, 128}
        covered = (noised == 128).mean(axis=(1, 2)) * 96 * 96 / 64
        assert covered.max() == level + 1  # no two overlap in some frame
        # Of a block's 89² places, 64 cover a pixel that is well within the frame.
        middle = (noised[:, 8:-8, 8:-8] == 128).mean()
        expected = 1 - (1 - 64 / 89**2) ** (level + 1)
        assert middle == pytest.approx(expected, abs=0.01)
        assert not np.array_equal(noised[0], noised[1])


def test_blocks_follow_the_size():
    share = TYPES["block"].parameters[LEVELS - 1]
    noised = add_visual_noise(np.zeros((20, 256, 256), np.uint8), "block", LEVELS, rng(0))
    assert share * 256**2 / 64 == 80
    middle = (noised[:, 8:-8, 8:-8] == 128).mean()
    assert middle == pytest.approx(1 - (1 - 64 / 249**2) ** 80, abs=0.002)


@pytest.mark.parametrize("level", [1, 4, 10])
def test_gaussian_blur_is_a_convolution(smooth, level):
    sigma = np.interp(1 + (level - 1) * 4 / 9, range(1, 6), [7, 9, 13, 17, 21]) / 6
    offsets = np.arange(-12, 13)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights[np.abs(offsets) > 3 * sigma] = 0
    weights /= weights.sum()
    blurred = smooth.astype(float)
    for axis in (1, 2):
        blurred = np.apply_along_axis(np.convolve, axis, blurred, weights, "same")
    inner = np.s_[:, 12:-12, 12:-12]
    found = add_visual_noise(smooth, "gaussian_blur", level, rng(0))
    assert np.abs(found[inner] - blurred[inner]).max() <= 1


def test_motion_blur_averages_along_a_line(smooth):
    for level, length in enumerate(range(3, 22, 2), 1):
        angle = rng("motion").uniform(-45, 45)
        found = add_visual_noise(smooth, "motion_blur", level, rng("motion"))
        margin = length // 2 + 1
        inner = np.s_[:, margin:-margin, margin:-margin]
        mean = np.zeros(smooth[inner].shape)
        for step in np.arange(length) - length // 2:
            # Rows go down, angles up.
            down, right = -step * np.sin(np.radians(angle)), step * np.cos(np.radians(angle))
            for y in (int(np.floor(down)), int(np.floor(down)) + 1):
                for x in (int(np.floor(right)), int(np.floor(right)) + 1):
                    moved = np.roll(smooth, (-y, -x), axis=(1, 2))[inner]
                    mean += moved * (1 - abs(down - y)) * (1 - abs(right - x)) / length
        assert np.abs(found[inner] - mean).max() <= 1


def test_line_kernel():
    assert np.allclose(line_kernel(5, 0)[2], 0.2) and line_kernel(5, 0).sum() == pytest.approx(1)
    up = line_kernel(9, 45)
    assert up.sum() == pytest.approx(1) and up[1:4, 5:8].sum() > 0.3 and up[:4, :4].sum() == 0
    assert np.allclose(line_kernel(9, -45), up[::-1])


def test_motion_is_the_same_in_all_frames():
    frame = np.random.default_rng(0).integers(256, size=(96, 96), dtype=np.uint8)
    still = np.tile(frame, (5, 1, 1))
    noised = add_visual_noise(still, "motion_blur", 5, rng(0))
    assert np.array_equal(noised, np.tile(noised[0], (5, 1, 1)))


def test_pixelation_interpolates_between_few_pixels():
    ramp = np.broadcast_to(np.arange(0, 192, 2, dtype=np.uint8), (1, 96, 96))
    noised = add_visual_noise(ramp, "pixelation", 1, rng(0)).astype(int)  # half the pixels
    assert np.abs(noised - ramp).max() <= 2
    dots = np.zeros((1, 96, 96), np.uint8)
    dots[:, ::6, ::6] = 255
    # Each of 16x16 samples lies in the middle of 6x6 pixels, where no dot is.
    assert add_visual_noise(dots, "pixelation", LEVELS, rng(0)).max() == 0


def test_gaussian_noise_has_its_standard_deviation():
    frames = np.full((20, 96, 96), 128, np.uint8)
    levels = (1, 4, 7)  # beyond, values are clipped
    for level in levels:
        p = np.interp(1 + (level - 1) * 4 / 9, range(1, 6), [0.001, 0.002, 0.005, 0.01, 0.05])
        noised = add_visual_noise(frames, "gaussian_noise", level, rng(level)).astype(float)
        assert noised.std() == pytest.approx(255 * 1.1644 * p**0.5, rel=0.02)
        assert noised.mean() == pytest.approx(128, abs=0.3)
        assert abs(np.corrcoef(noised[0].ravel(), noised[1].ravel())[0, 1]) < 0.05


def test_contrast_is_a_factor(clip):
    for level in (1, 5, 10):
        factor = 0.85 - (level - 1) * 0.5 / 9
        noised = add_visual_noise(clip, "contrast", level, rng(0))
        assert np.abs(noised - factor * clip).max() <= 0.5 + 1e-9


def test_jpeg_is_that_of_opencv(clip):
    noised = add_visual_noise(clip[:1], "jpeg", 1, rng(0))[0]
    coded = cv2.imencode(".jpg", clip[0], [cv2.IMWRITE_JPEG_QUALITY, 25])[1]
    assert np.array_equal(noised, cv2.imdecode(coded, cv2.IMREAD_UNCHANGED))


def test_h264_keeps_all_frames_in_order_and_saves_bits(clip):
    bits = [sum(p.size for p in h264(clip, crf)) for crf in TYPES["compression"].parameters]
    assert np.all(np.diff(bits) < 0), bits
    # Each frame of another brightness, over several groups of pictures.
    flat = np.broadcast_to((np.arange(300) * 37 % 251)[:, None, None], (300, 32, 32))
    noised = add_visual_noise(flat.astype(np.uint8), "compression", 1, rng(0))
    assert noised.shape == flat.shape
    assert np.abs(noised - flat).max() <= 8


def test_draws_are_uniform():
    config = VisualNoiseConfig()
    draws = [
        draw_visual_noise(config, rng(1, config.condition, f"clip-{i}", 0)) for i in range(5000)
    ]
    kinds = Counter(d.kind if d else None for d in draws)
    levels = Counter(d.level for d in draws if d)
    assert set(kinds) == {None, *TRAINING_TYPES} and set(levels) == set(range(1, LEVELS + 1))
    # The 99.9th percentiles of chi-square with 4 and 9 degrees of freedom.
    for counts, bound in ((kinds, 18.5), (levels, 27.9)):
        expected = sum(counts.values()) / len(counts)
        assert sum((n - expected) ** 2 / expected for n in counts.values()) < bound


def test_draws_depend_on_their_key_only():
    config = VisualNoiseConfig(PAPER_TYPES)
    first = [draw_visual_noise(config, rng(1, config.condition, f"clip-{i}", 0)) for i in range(50)]
    again = [
        draw_visual_noise(config, rng(1, config.condition, f"clip-{i}", 0))
        for i in reversed(range(50))
    ]
    other_pass = [
        draw_visual_noise(config, rng(1, config.condition, f"clip-{i}", 1)) for i in range(50)
    ]
    assert first == again[::-1] and first != other_pass


def test_an_evaluation_uses_one_type_and_level():
    config = VisualNoiseConfig(("contrast",), level=4, clean=False)
    found = {draw_visual_noise(config, rng(i)) for i in range(20)}
    assert found == {VisualNoiseDraw("contrast", 4)}
    assert found.pop().record() == {"kind": "contrast", "level": 4}


def test_conditions_in_words():
    assert VisualNoiseConfig(("block",), 3, clean=False).condition == "block level 3"
    assert VisualNoiseConfig().condition == (
        "clean or block, gaussian_blur, motion_blur, pixelation level 1 to 10"
    )


def test_names():
    assert tuple(TYPES) == (*PAPER_TYPES, "jpeg")
    assert len(PAPER_TYPES) == 7 and not set(TRAINING_TYPES) & set(UNSEEN_TYPES)
    assert all(t.meaning and t.source for t in TYPES.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 9, 9)), "block", 1), "ndarray of float64 [2, 9, 9], expected"),
        (
            (np.zeros((9, 9), np.uint8), "block", 1),
            "uint8 [9, 9], expected an array of",
        ),
        (([[[1]]], "block", 1), "frames are list of"),
        ((np.zeros((0, 9, 9), np.uint8), "block", 1), "have no pixels"),
        ((np.zeros((2, 9, 9), np.uint8), "fog", 1), "'fog': expected one of block, gaussian_blur"),
        (
            (np.zeros((2, 9, 9), np.uint8), "block", 11),
            "level 11: expected an integer from 0 to 10",
        ),
        ((np.zeros((2, 9, 9), np.uint8), "block", -1), "level -1: expected"),
        ((np.zeros((2, 9, 9), np.uint8), "block", 2.5), "level 2.5: expected"),
    ],
)
def test_invalid_input_is_rejected(arguments, message):
    with pytest.raises(InputError) as error:
        add_visual_noise(*arguments, rng(0))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"types": ()}, "without a type: choose from block"),
        ({"types": ("fog",)}, "'fog': expected one of block"),
        ({"types": ("block", "block")}, "name each type once"),
        ({"level": 0}, "level 0: expected an integer from 1 to 10"),
        ({"level": 11}, "level 11"),
    ],
)
def test_invalid_configurations_are_rejected(options, message):
    with pytest.raises(InputError, match=message):
        VisualNoiseConfig(**options)


@pytest.mark.slow
def test_preview(clip, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(noise_preview, "LEVELS", 2)
    video, out = tmp_path / "clip.mp4", tmp_path / "new" / "sheet.png"
    write_video(video, clip[:6, :61, :73][:, :60, :72], fps=25)
    command = ["data", "noise-preview", "--video", str(video), "--out", str(out)]
    assert main([*command, "--frame", "2"]) == 0
    assert f"written: {out}" in capsys.readouterr().out
    sheet = cv2.imread(str(out), cv2.IMREAD_UNCHANGED)
    gap, left, top = noise_preview.GAP, noise_preview.LEFT, noise_preview.TOP
    assert sheet.shape == (top + len(TYPES) * (60 + gap), left + 3 * (72 + gap))
    frames = load_video(video)
    for row, kind in enumerate(TYPES):
        for level in range(3):
            y, x = top + row * (60 + gap), left + level * (72 + gap)
            expected = add_visual_noise(frames, kind, level, hashed_generator("preview", 1, kind))[
                2
            ]
            assert np.array_equal(sheet[y : y + 60, x : x + 72], expected), (kind, level)
    assert sheet[:, :left].min() < 100  # labels
    assert main([*command, "--frame", "6"]) == 1
    assert "no frame 6; choose one of 0 to 5" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(command) == 1
    assert "pip install 'avhubert-ext[plot]'" in capsys.readouterr().err
