"""Uploaded clips, kept in memory only, and for a while."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from avhubert_ext.transcription.transcribe import Transcript


@dataclass(frozen=True, eq=False)
class UploadedClip:
    """An uploaded clip and its transcripts so far.

    Attributes:
        name: Name of the uploaded file, for display.
        video: The mouth region, uint8 [T, 96, 96] at 25 frames per second, or None.
        audio: int16 [N] at 16 kHz, or None.
        warnings: Notes on what was read, one line each.
        quality: Measures of the mouth region.
        sheets: JPEG contact sheets of the frames.
        face: JPEG of a frame that shows where the mouth is; None for a ready-made mouth region.
        seen: bool [T], whether each frame of `video` shows the face; None without video.
        number: Number of the face, 1 for the largest.
        transcripts: (modality, noise level) -> transcript.
    """

    name: str
    video: np.ndarray | None
    audio: np.ndarray | None
    warnings: tuple[str, ...] = ()
    quality: dict[str, Any] = field(default_factory=dict)
    sheets: tuple[bytes, ...] = ()
    face: bytes | None = None
    seen: np.ndarray | None = None
    number: int = 1
    transcripts: dict[tuple[str, int | None], Transcript] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the clip provides."""
        has = {"video": self.video is not None, "audio": self.audio is not None}
        return tuple(m for m in ("both", "audio", "video") if has.get(m, all(has.values())))

    @property
    def nbytes(self) -> int:
        """Approximate size in memory."""
        arrays = [array.nbytes for array in (self.video, self.audio) if array is not None]
        return sum(arrays) + sum(map(len, self.sheets))


class ClipStore:
    """Clips by unguessable identifiers; clips that are not used for a while are deleted."""

    def __init__(
        self, most_bytes: int, keep_seconds: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Create an empty store.

        Args:
            most_bytes: Size of all clips; beyond it the least recently used are deleted.
            keep_seconds: How long a clip is kept after its last use.
            now: The clock, in seconds.
        """
        self._most_bytes, self._keep, self._now = most_bytes, keep_seconds, now
        self._clips: dict[str, tuple[float, UploadedClip]] = {}  # in the order of last use
        self._lock = threading.Lock()

    def add(self, clip: UploadedClip) -> str:
        """Store a clip, and return its identifier."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._clips[name] = self._now(), clip
            while len(self._clips) > 1 and self._nbytes() > self._most_bytes:
                del self._clips[next(iter(self._clips))]
        return name

    def get(self, name: str) -> UploadedClip:
        """Return a clip; raises KeyError if there is none or it was deleted."""
        self.forget_old()
        with self._lock:
            _, clip = self._clips.pop(name)
            self._clips[name] = self._now(), clip
        return clip

    def forget(self, name: str) -> None:
        """Delete a clip; raises KeyError as `get` does."""
        with self._lock:
            del self._clips[name]

    def forget_old(self) -> None:
        """Delete the clips that were not used for a while."""
        with self._lock:
            for name, (used, _) in list(self._clips.items()):
                if self._now() - used > self._keep:
                    del self._clips[name]

    def _nbytes(self) -> int:
        return sum(clip.nbytes for _, clip in self._clips.values())
