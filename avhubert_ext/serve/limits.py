"""Limits on what a visitor of the page may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServeLimits:
    """Limits on uploads, time and memory.

    Attributes:
        megabytes: Size of an upload.
        seconds: Length of a clip.
        job_seconds: Time for reading, and for recognizing, a clip.
        memory: Bytes that reading may allocate in addition to its libraries.
        waiting: Jobs that may wait in a queue; further ones are refused.
        clip_memory: Bytes of all clips that are kept.
        keep_seconds: How long a clip is kept after its last use.
    """

    megabytes: int = 50
    seconds: int = 60
    job_seconds: int = 180
    memory: int = 4 * 2**30
    waiting: int = 4
    clip_memory: int = 512 * 2**20
    keep_seconds: int = 30 * 60


LIMITS = ServeLimits()
