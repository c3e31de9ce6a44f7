"""Decoded frames and clean audio features on disk, made once and not once an epoch.

An entry is found by the content of the file that it was made from. So a changed file is decoded
again, even if its size and time are the old ones, and a corpus that was moved finds its entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from avhubert_ext.data.audio import audio_features, load_audio
from avhubert_ext.data.files import whole_file
from avhubert_ext.data.video import load_video

FORMAT = 2  # raise it when decoding or the features change: older entries are then left alone


def load_video_cached(path: Path, cache: Path | None) -> np.ndarray:
    """As `load_video`; with a cache folder the frames are stored there and memory-mapped."""
    return _cached(path, cache, "frames", lambda: load_video(path))


def load_features_cached(path: Path, n_frames: int, cache: Path | None) -> np.ndarray:
    """`audio_features` of the audio file, float32 [n_frames, 104]; cached as the frames are.

    Raises the InputErrors of `load_audio`.
    """

    def make() -> np.ndarray:
        return audio_features(load_audio(path), n_frames=n_frames)

    return _cached(path, cache, f"features-{n_frames}", make)


def _cached(
    path: Path, cache: Path | None, kind: str, make: Callable[[], np.ndarray]
) -> np.ndarray:
    """What `make` gives for the file, from the cache if it is there and not damaged."""
    if cache is None:
        return make()
    try:
        content = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return make()  # whose error says what is wrong with the file
    stored = cache / f"{kind}-{FORMAT}-{content}.npy"
    try:
        return _open(stored)
    except Exception:  # missing, or damaged in any way
        with whole_file(stored) as temporary, temporary.open("wb") as file:
            np.save(file, make(), allow_pickle=False)
    return _open(stored)


def _open(stored: Path) -> np.ndarray:
    """Memory-mapped; ValueError if its header is not that of an array of this size."""
    array = np.lib.format.open_memmap(stored, mode="r")  # which opens no pickle
    if array.offset + array.nbytes != stored.stat().st_size:
        raise ValueError("the file has another size")
    return array
