"""What was uploaded: in memory alone, and only for a while."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip that was read, and what was recognised in it so far.

    name: of the uploaded file, to show. video: uint8 [T, 96, 96] at 25 frames a second.
    audio: int16 [N] at 16 kHz. Either may be None. sheets: JPEG pictures of the frames.
    transcripts: for a modality and a level of noise.
    """

    name: str
    video: np.ndarray | None
    audio: np.ndarray | None
    sheets: tuple[bytes, ...]
    quality: dict[str, Any]
    warnings: tuple[str, ...]
    transcripts: dict[tuple[str, int | None], dict[str, Any]] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What a recogniser can be given."""
        has = {"video": self.video is not None, "audio": self.audio is not None}
        return tuple(m for m in ("both", "audio", "video") if has.get(m, all(has.values())))


class Clips:
    """Clips by identifiers that no one guesses; those not used for a while are forgotten.

    most: clips kept; a further one takes the place of that which was used longest ago.
    keep_seconds: after the last use. now: the clock, in seconds.
    """

    def __init__(
        self, most: int, keep_seconds: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._keep, self._now = most, keep_seconds, now
        self._clips: dict[str, tuple[float, Clip]] = {}  # in the order of last use
        self._lock = threading.Lock()

    def add(self, clip: Clip) -> str:
        """Keep a clip; its identifier."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            while len(self._clips) >= self._most:
                del self._clips[next(iter(self._clips))]
            self._clips[name] = self._now(), clip
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
