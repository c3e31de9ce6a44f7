"""One frame of a clip under all visual noise: a row for each type, a column for each level."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avhubert_ext.data.files import whole_file
from avhubert_ext.data.noise import hashed_generator
from avhubert_ext.data.video import load_video
from avhubert_ext.data.visual_noise import LEVELS, TYPES, add_visual_noise
from avhubert_ext.errors import InputError, printable
from avhubert_ext.reports.page import pyplot

DPI = 100
LEFT, TOP, GAP = 130, 70, 4  # pixels: room for the labels, space between frames


def noise_preview(video: Path, out: Path, frame: int | None = None, seed: int = 1) -> None:
    """Write a PNG that shows one frame under all types and levels, pixel by pixel.

    Args:
        video: clip of the mouth region.
        out: PNG file to write.
        frame: number of the frame, counted from 0; None for the middle frame.
        seed: of the random noise.

    Raises:
        InputError: if the clip cannot be read or does not have the frame, or matplotlib is missing.
    """
    frames = load_video(video)
    number = len(frames) // 2 if frame is None else frame
    if not 0 <= number < len(frames):
        raise InputError(f"{video} has no frame {number}; choose one of 0 to {len(frames) - 1}")
    # The whole clip each time, since H.264 uses neighboring frames; the same draws at all levels.
    rows = [
        [
            add_visual_noise(frames, kind, level, hashed_generator("preview", seed, kind))[number]
            for level in range(LEVELS + 1)
        ]
        for kind in TYPES
    ]
    _plot(np.array(rows), f"{video.name}, frame {number}", out)


def _plot(frames: np.ndarray, title: str, path: Path) -> None:
    """Write frames, uint8 [types, levels, H, W], as a labeled sheet."""
    import cv2

    plt = pyplot()
    sheet = _sheet(frames)
    height, width = sheet.shape
    whole = np.array([LEFT + width, TOP + height])
    figure = plt.figure(figsize=whole / DPI, dpi=DPI)
    axes = figure.add_axes((LEFT / whole[0], 0, width / whole[0], height / whole[1]))
    # As RGB: a color map would round.
    axes.imshow(np.stack([sheet] * 3, axis=-1), interpolation="nearest")
    rows, columns = (
        (np.arange(number) + 0.5) * (side + GAP)
        for number, side in zip(frames.shape[:2], frames.shape[2:], strict=True)
    )
    axes.set_yticks(rows, [kind.replace("_", " ") for kind in TYPES], fontsize=11)
    axes.set_xticks(columns, ["clean", *map(str, range(1, LEVELS + 1))], fontsize=11)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{printable(title)}: visual noise by level", loc="left", fontsize=11, pad=10)
    figure.canvas.draw()
    # Everything is gray: with one channel the file is half as large as with matplotlib's four.
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., 0]
    png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    plt.close(figure)
    with whole_file(path) as temporary:
        temporary.write_bytes(png)


def _sheet(frames: np.ndarray) -> np.ndarray:
    """Tile frames with white gaps: uint8 [types, levels, H, W] -> [rows, columns] of pixels."""
    spaced = np.pad(frames, ((0, 0), (0, 0), (0, GAP), (0, GAP)), constant_values=255)
    types, levels, height, width = spaced.shape
    return spaced.swapaxes(1, 2).reshape(types * height, levels * width)
