"""What was uploaded: in memory alone, and only for a while."""

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
class Clip:
    """A clip that was read, and what was recognized in it so far.

    name: of the uploaded file, to show. video: uint8 [T, 96, 96] at 25 frames a second; audio:
    int16 [N] at 16 kHz; either may be None. seen: bool [T], where the video shows the face; number:
    of the face, the largest is 1. sheets: JPEG pictures of the frames; face: one of where the mouth
    is, None where there is nothing around it. transcripts: for a modality and a level of noise.
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
        """What a recognizer can be given."""
        has = {"video": self.video is not None, "audio": self.audio is not None}
        return tuple(m for m in ("both", "audio", "video") if has.get(m, all(has.values())))

    @property
    def nbytes(self) -> int:
        """What it takes of the memory, nearly."""
        arrays = [array.nbytes for array in (self.video, self.audio) if array is not None]
        return sum(arrays) + sum(map(len, self.sheets))


class Clips:
    """Clips by identifiers that no one guesses; those not used for a while are forgotten.

    most_bytes: of all that are kept; for a new one those go that were used longest ago.
    keep_seconds: after the last use. now: the clock, in seconds.
    """

    def __init__(
        self, most_bytes: int, keep_seconds: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_bytes, self._keep, self._now = most_bytes, keep_seconds, now
        self._clips: dict[str, tuple[float, Clip]] = {}  # in the order of last use
        self._lock = threading.Lock()

    def add(self, clip: Clip) -> str:
        """Keep a clip; its identifier."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._clips[name] = self._now(), clip
            while len(self._clips) > 1 and self._nbytes() > self._most_bytes:
                del self._clips[next(iter(self._clips))]
        return name

    def get(self, name: str) -> Clip:
        """Raises KeyError for a clip that was never there or is forgotten."""
        self.forget_old()
        with self._lock:
            _, clip = self._clips.pop(name)
            self._clips[name] = self._now(), clip
        return clip

    def forget(self, name: str) -> None:
        """Raises KeyError as `get` does."""
        with self._lock:
            del self._clips[name]

    def forget_old(self) -> None:
        with self._lock:
            for name, (used, _) in list(self._clips.items()):
                if self._now() - used > self._keep:
                    del self._clips[name]

    def _nbytes(self) -> int:
        return sum(clip.nbytes for _, clip in self._clips.values())
