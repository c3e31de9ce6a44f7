"""Decoded frames on disk, so that a video is decoded once, not once an epoch."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from avhubert_ext.data.files import whole_file
from avhubert_ext.data.video import load_video


def load_video_cached(path: Path, cache: Path | None) -> np.ndarray:
    """As `load_video`; with a cache folder the frames are stored there and memory-mapped.

    The key holds the file's size and modification time, so a changed video is decoded again, and
    so is one whose stored frames are damaged.
    """
    if cache is None or not path.is_file():
        return load_video(path)
    status = path.stat()
    key = hashlib.sha256(f"{path.absolute()}:{status.st_size}:{status.st_mtime_ns}".encode())
    stored = cache / f"{key.hexdigest()[:32]}.npy"
    try:
        return np.load(stored, mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError):
        with whole_file(stored) as temporary, temporary.open("wb") as file:
            np.save(file, load_video(path))
    return np.load(stored, mmap_mode="r")
