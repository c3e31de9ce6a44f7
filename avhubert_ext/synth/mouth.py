"""Draw the mouth region: from a trajectory of lip parameters to 96x96 gray frames.

The lips are bands between contours that are functions of the column, so a whole clip is drawn with
a few array operations per contour: `_below` computes how much of each pixel lies below a contour,
which anti-aliases the edge, and the layers are drawn over each other from skin to teeth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import zoom

from avhubert_ext.synth.visemes import PARAMETERS

SIZE = 96  # pixels in both directions
MARGIN = 8  # pixels of skin outside the frame, for head motion


@dataclass(frozen=True)
class Face:
    """How a speaker looks. Lengths are in pixels of a 96x96 frame, gray values 0 to 255."""

    half_width: float = 23.0  # of the mouth at rest
    upper_lip: float = 5.5  # thickness
    lower_lip: float = 7.5
    cupid: float = 0.25  # depth of the notch in the upper lip, share of its thickness
    corner_drop: float = 0.5  # corners below (above if negative) the middle of the lip line
    opening: float = 21.0  # distance of the lips if the trajectory's opening is 1
    articulation: float = 1.0  # 1 follows the trajectory; less mumbles
    nose_height: float = 25.0  # from the lip line up to the base of the nose
    chin_height: float = 27.0  # from the lip line down to the chin's fold
    skin: float = 160.0
    lip_darkness: float = 40.0  # difference between skin and lips
    gloss: float = 18.0  # highlight on the lower lip
    teeth: float = 205.0
    teeth_height: float = 7.0
    cavity: float = 28.0
    folds: float = 10.0  # depth of the folds from nose to mouth
    stubble: float = 6.0  # darkening around the mouth
    light_x: float = 10.0  # difference in brightness of the right border from the middle
    light_y: float = -8.0  # the same for the lower border
    motion: float = 1.5  # amplitude of the head's drift
    noise: float = 2.0  # standard deviation of the sensor's noise
    texture_seed: int = 0  # of the skin's blotches


def render(trajectory: np.ndarray, face: Face, rng: np.random.Generator) -> np.ndarray:
    """Draw the frames of a clip.

    Args:
        trajectory: float [T, len(PARAMETERS)] at 25 frames/s.
        face: How the speaker looks.
        rng: Draws head motion and sensor noise.

    Returns:
        uint8 [T, SIZE, SIZE].
    """
    n_frames = len(trajectory)
    p = {name: trajectory[:, i, None] for i, name in enumerate(PARAMETERS)}  # each [T, 1]
    drift = _head_drift(n_frames, rng)[..., None].astype(np.float32)  # [3, T, 1]
    columns = np.arange(SIZE, dtype=np.float32)
    x = columns[None] - (SIZE - 1) / 2 - face.motion * drift[0]  # [T, SIZE] from the middle
    # The row of the lip line in each column: drift plus a small roll of the head.
    middle = 0.5 * SIZE + 1.0 + face.motion * drift[1] + 0.03 * face.motion * drift[2] * x

    frames = _shifted(_skin(face), face.motion * drift[1, :, 0], face.motion * drift[0, :, 0])
    _draw_chin(frames, x, middle, p["jaw"] * face.articulation, face)
    _draw_mouth(frames, x, middle, p, face)
    frames *= _light(face)
    frames = _blur(frames)
    frames += face.noise * rng.standard_normal(frames.shape, dtype=np.float32)
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def _head_drift(n_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a slow drift of position (x, y) and roll, about -1 to 1: [3, T]."""
    seconds = np.arange(n_frames) / 25
    hertz = rng.uniform(0.1, 0.7, (3, 3, 1))
    phase = rng.uniform(0, 2 * np.pi, (3, 3, 1))
    return np.sin(2 * np.pi * hertz * seconds + phase).mean(1) * 1.5


@lru_cache(maxsize=8)
def _skin(face: Face) -> np.ndarray:
    """Draw the static part of the face, MARGIN wider than a frame on each side: float32 [H, W].

    It consists of nose, groove, folds from nose to mouth, stubble, and blotches.
    """
    side = SIZE + 2 * MARGIN
    y, x = np.mgrid[:side, :side].astype(np.float32) - (side - 1) / 2
    y -= 1.5  # the lip line is a little below the middle
    x_abs = np.abs(x)
    nose = -face.nose_height
    skin = np.full((side, side), face.skin, np.float32)
    skin -= 0.0035 * x**2  # cheeks turn away from the camera
    skin += 16 * np.exp(-((x / 9) ** 2) - ((y - nose + 9) / 7) ** 2)  # tip of the nose
    skin -= 34 * np.exp(-((x / 12) ** 2) - ((y - nose - 1) / 2.2) ** 2)  # its shadow
    skin -= 62 * np.exp(-(((x_abs - 6.0) / 3.0) ** 2) - ((y - nose + 1) / 1.8) ** 2)  # nostrils
    wing = np.exp(-(((np.hypot((x_abs - 9.5) * 1.0, (y - nose + 5) * 0.9) - 5.5) / 1.3) ** 2))
    skin -= 20 * wing * (x_abs > 9)
    groove = np.exp(-(((y - 0.55 * nose) / (0.30 * face.nose_height)) ** 2))
    skin += groove * (6 * np.exp(-(((x_abs - 4) / 1.6) ** 2)) - 9 * np.exp(-((x / 2.2) ** 2)))
    fold = 13 + 0.62 * (y - nose)  # column of the fold in each row
    fades = np.exp(-(((y + 14) / 14) ** 2))
    skin -= face.folds * np.exp(-(((x_abs - fold) / 2.4) ** 2)) * fades
    beard = np.exp(-((((np.hypot(x / 34, (y - 6) / 30)) - 0.75) / 0.35) ** 2))
    skin -= face.stubble * beard
    rng = np.random.default_rng(face.texture_seed)
    for grain, depth in ((8, 3.0), (2, 2.0)):
        coarse = rng.standard_normal((side // grain + 2, side // grain + 2))
        skin += depth * zoom(coarse, grain, order=1)[:side, :side]
    return skin


def _shifted(canvas: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cut frames [T, SIZE, SIZE] from the canvas, shifted by (fractions of) pixels [T]."""
    frames = np.empty((len(down), SIZE, SIZE), np.float32)
    for frame, dy, dx in zip(frames, MARGIN - down, MARGIN - right, strict=True):
        row, column = int(dy), int(dx)
        b, a = np.float32(dy - row), np.float32(dx - column)
        crop = canvas[row : row + SIZE + 1, column : column + SIZE + 1]
        rows = crop[:-1] * (1 - b) + crop[1:] * b
        frame[:] = rows[:, :-1] * (1 - a) + rows[:, 1:] * a
    return frames


def _draw_chin(
    frames: np.ndarray, x: np.ndarray, middle: np.ndarray, jaw: np.ndarray, face: Face
) -> None:
    """Shade fold, chin, and neck, which move down with the jaw [T, 1], in place."""
    down = middle + (0.5 * face.opening) * jaw
    frames -= 20 * _blob(x, 13.0, down + 0.58 * face.chin_height, 3.5)
    frames += 10 * _blob(x, 11.0, down + 0.95 * face.chin_height, 6.0)
    neck = _below(down + 1.55 * face.chin_height - 0.006 * x**2)
    frames *= 1 - 0.38 * neck


def _light(face: Face) -> np.ndarray:
    """Return the brightness of each pixel relative to uniform light: float32 [SIZE, SIZE]."""
    across = np.linspace(-1, 1, SIZE, dtype=np.float32)
    return 1 + (face.light_x * across + face.light_y * across[:, None]) / face.skin


def _blur(frames: np.ndarray) -> np.ndarray:
    """Blur frames horizontally by a fraction of a pixel, as a lens does."""
    soft = 0.6 * frames
    soft[..., 1:] += 0.2 * frames[..., :-1]
    soft[..., :-1] += 0.2 * frames[..., 1:]
    soft[..., [0, -1]] += 0.2 * frames[..., [0, -1]]
    return soft


def _draw_mouth(
    frames: np.ndarray, x: np.ndarray, middle: np.ndarray, p: dict[str, np.ndarray], face: Face
) -> None:
    """Draw the lips and what is between them into `frames` [T, SIZE, SIZE], in place.

    `x` and `middle` [T, SIZE] are the column from the middle and the row of the lip line; `p`
    contains the parameters [T, 1].
    """
    spread = 1 + 0.30 * (p["width"] - 0.5) * face.articulation - 0.26 * p["rounding"]
    half_width = face.half_width * spread
    u = x / half_width
    inside = np.sqrt(np.clip(1 - u**2, 0, 1))  # half an ellipse, 1 in the middle, 0 at corners
    inner = np.sqrt(np.clip(1 - (u / 0.90) ** 2, 0, 1))
    middle = middle + face.corner_drop * u**2 - 2.0 * p["tuck"]

    gap = face.opening * face.articulation * p["opening"]
    # Thin at the corners when spread, full when rounded; rolled in when pressed or tucked.
    fullness = 1 + 0.30 * p["rounding"] - 0.10 * p["width"] - 0.45 * p["press"]
    notch = (
        1 - face.cupid * np.exp(-((u / 0.16) ** 2)) + 0.15 * np.exp(-((abs(u) - 0.3) ** 2) / 0.04)
    )
    upper = face.upper_lip * fullness * notch * inside**1.2
    lower = face.lower_lip * fullness * (1 - 0.45 * p["tuck"]) * inside

    upper_edge = middle - 0.36 * gap * inner
    lower_edge = middle + 0.64 * gap * inner + 0.4 * inner
    upper_edge = upper_edge - 0.4 * inner - 1.5 * p["tuck"] * inner
    teeth_tip = upper_edge + p["teeth"] * np.minimum(face.teeth_height, 0.42 * gap + 3.2) * inner
    tongue_top = lower_edge - (0.20 + 0.55 * p["tongue"]) * gap * np.sqrt(
        np.clip(1 - (u / 0.62) ** 2, 0, 1)
    )

    top_lip = _below(upper_edge - upper)  # [T, SIZE, SIZE], 1 below the upper lip's upper border
    cavity_top = _below(upper_edge)
    cavity_bottom = _below(lower_edge)
    bottom_lip = _below(lower_edge + lower)

    shadow = _below(lower_edge + lower + 2.5 * inside)
    frames *= 1 - 0.12 * (bottom_lip - shadow)
    lip = face.skin - face.lip_darkness
    # The upper lip faces down and is darker; both are darker at the corners.
    side = (1 - 0.12 * (1 - inside))[:, None]
    _lay(frames, top_lip - cavity_top, lip * 0.92 * side)
    gloss = _blob(x, 0.45 * half_width, lower_edge + 0.45 * lower, 0.30 * lower + 0.8)
    _lay(frames, cavity_bottom - bottom_lip, lip * side + face.gloss * gloss)

    between = cavity_top - cavity_bottom
    depth = (0.45 + 0.55 * np.minimum(1.0, gap / 5.0))[..., None]  # a closed lip line is not black
    _lay(frames, between, lip * 0.55 * (1 - depth) + face.cavity * depth)
    tongue = np.minimum(_below(tongue_top), between)
    _lay(frames, tongue, (0.42 + 0.28 * p["tongue"])[..., None] * face.skin)
    shade = (1 - 0.35 * u**2) * (1 - 0.10 * np.cos(2 * np.pi * x / 5.5) ** 8)
    teeth = np.clip(between - _below(teeth_tip), 0, 1)
    # In dentals, the tip of the tongue comes between the teeth and covers them.
    covered = np.clip((p["tongue"] - 0.7) / 0.3, 0, 1)[..., None] * tongue
    _lay(frames, teeth * (1 - 0.8 * covered), (face.teeth * shade)[:, None])


def _below(contour: np.ndarray) -> np.ndarray:
    """Return the share of each pixel below a contour (a row per column): [T, W] -> [T, H, W].

    The edge is 1.4 pixels wide, as in a camera image.
    """
    rows = np.arange(SIZE, dtype=np.float32)[:, None] / 1.4
    share = rows - (contour.astype(np.float32) / 1.4 - 0.5)[:, None]
    return np.clip(share, 0, 1, out=share)


def _lay(frames: np.ndarray, cover: np.ndarray, gray: np.ndarray) -> None:
    """Blend a gray value into `frames` with the opacity `cover` (0 to 1), in place."""
    frames += cover * (gray - frames)


def _blob(
    x: np.ndarray, width: np.ndarray | float, row: np.ndarray, height: np.ndarray | float
) -> np.ndarray:
    """Draw soft spots, 1 in the middle: `x` and `row` [T, W], sizes in pixels -> [T, H, W]."""
    across = np.exp(-((x / width) ** 2)).astype(np.float32)
    row = row[:, SIZE // 2, None]  # flat, so that the spot is an outer product
    height = height[:, SIZE // 2, None] if isinstance(height, np.ndarray) else height
    down = np.exp(-(((np.arange(SIZE) - row) / height) ** 2)).astype(np.float32)
    return across[:, None] * down[:, :, None]
