"""How much a visitor of the page may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """megabytes: of an upload. seconds: of a clip. job_seconds: that reading or recognizing a clip
    may take. memory: bytes that reading may take beyond what its libraries take. waiting: jobs in
    a queue; one more is told to come back. clip_memory: bytes of clips kept at a time, each for
    keep_seconds after its last use.
    """

    megabytes: int = 50
    seconds: int = 60
    job_seconds: int = 180
    memory: int = 4 * 2**30
    waiting: int = 4
    clip_memory: int = 512 * 2**20
    keep_seconds: int = 30 * 60


LIMITS = Limits()
