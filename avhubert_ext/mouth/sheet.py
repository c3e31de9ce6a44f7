"""Contact sheets that show at a glance whether the crops of a clip are right."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from avhubert_ext.data.files import whole_file
from avhubert_ext.mouth.align import SIZE

COLUMNS = 8
WIDTH = 160  # pixels of a column
GREEN, YELLOW = (0, 255, 0), (255, 255, 0)  # RGB


def sample_times(frames: int) -> list[int]:
    """Return the numbers of the evenly spaced frames that a sheet shows."""
    return sorted({int(t) for t in np.linspace(0, frames - 1, COLUMNS).round()})


def small(image: np.ndarray) -> np.ndarray:
    """Scale a frame, RGB [H, W, 3], to the width WIDTH."""
    height = max(1, round(image.shape[0] * WIDTH / image.shape[1]))
    return cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA)


def outlined(
    thumbnail: np.ndarray, width: int, points: np.ndarray, transform: np.ndarray
) -> np.ndarray:
    """Draw landmarks and the outline of the crop into a small frame.

    Args:
        thumbnail: The result of `small`.
        width: The width of the original frame.
        points: Landmarks [K, 2] in the original frame.
        transform: [2, 3], from original to crop pixels.
    """
    scale = WIDTH / width
    picture = thumbnail.copy()
    corners = np.array([[0, 0], [SIZE, 0], [SIZE, SIZE], [0, SIZE]]) - transform[:, 2]
    outline = np.linalg.solve(transform[:, :2], corners.T).T
    cv2.polylines(picture, [np.round(outline * scale).astype(np.int32)], True, GREEN)
    for x, y in np.round(points * scale).astype(int):
        if 0 <= x < WIDTH and 0 <= y < len(picture):
            picture[y, x] = YELLOW
    return picture


def write_sheet(path: Path, video: np.ndarray, pictures: dict[int, np.ndarray]) -> None:
    """Write a JPEG of frames with outlines, if any, and the crops below them.

    Args:
        path: The file.
        video: The crops, uint8 [T, 96, 96].
        pictures: Results of `outlined` by frame number.
    """
    times = list(pictures) or sample_times(len(video))
    crops = [cv2.resize(video[t], (WIDTH, WIDTH), interpolation=cv2.INTER_CUBIC) for t in times]
    rows = [np.hstack([cv2.cvtColor(crop, cv2.COLOR_GRAY2BGR) for crop in crops])]
    if pictures:
        rows.insert(0, cv2.cvtColor(np.hstack(list(pictures.values())), cv2.COLOR_RGB2BGR))
    _, encoded = cv2.imencode(".jpg", np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 85])
    with whole_file(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
