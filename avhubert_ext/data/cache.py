"""Cache of decoded frames and clean audio features on disk, so that they are computed only once.

Entries are found by the content of the source file. Thus a changed file is decoded again even if
its size and time are the same, and a corpus that was moved still finds its entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from avhubert_ext.data.audio import audio_features, load_audio
from avhubert_ext.data.files import whole_file
from avhubert_ext.data.video import load_video

FORMAT = 2  # increase it when decoding or features change: older entries are then ignored


def load_video_cached(path: Path, cache: Path | None) -> np.ndarray:
    """Call `load_video`, with the frames stored in a cache folder and memory-mapped.

    Args:
        path: The video file.
        cache: The cache folder; None decodes without a cache.

    Returns:
        uint8 [T, H, W].

    Raises:
        InputError: As `load_video`.
    """
    return _cached(path, cache, "frames", lambda: load_video(path))


def load_features_cached(path: Path, n_frames: int, cache: Path | None) -> np.ndarray:
    """Compute the `audio_features` of a file, cached like the frames of a video.

    Args:
        path: The audio file.
        n_frames: The length of the features in video frames.
        cache: The cache folder; None computes without a cache.

    Returns:
        float32 [n_frames, 104].

    Raises:
        InputError: As `load_audio`.
    """

    def make() -> np.ndarray:
        return audio_features(load_audio(path), n_frames=n_frames)

    return _cached(path, cache, f"features-{n_frames}", make)


def _cached(
    path: Path, cache: Path | None, kind: str, make: Callable[[], np.ndarray]
) -> np.ndarray:
    """Return the result of `make` for a file, from the cache if it has an intact entry."""
    if cache is None:
        return make()
    try:
        content = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return make()  # raises an error that explains what is wrong with the file
    stored = cache / f"{kind}-{FORMAT}-{content}.npy"
    try:
        return _open(stored)
    except Exception:  # missing, or damaged in any way
        with whole_file(stored) as temporary, temporary.open("wb") as file:
            np.save(file, make(), allow_pickle=False)
    return _open(stored)


def _open(stored: Path) -> np.ndarray:
    """Memory-map an array; ValueError if the size of the file does not match its header."""
    array = np.lib.format.open_memmap(stored, mode="r")  # never unpickles
    if array.offset + array.nbytes != stored.stat().st_size:
        raise ValueError("the file has another size")
    return array
