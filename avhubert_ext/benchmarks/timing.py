"""What all benchmarks share: the clock, the input, and the description of the machine.

Times taken in different processes, or minutes apart, differ by more than the models do. So
everything that is compared runs in one process, in rounds: each round times everything once, in
another order.
"""

from __future__ import annotations

import platform
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from avhubert_ext.checkpoints.description import EncoderNetwork
from avhubert_ext.data.audio import FEATURES
from avhubert_ext.data.video import CROP, FPS
from avhubert_ext.models.conformer import ConformerEncoder
from avhubert_ext.progress import Progress

PACKAGES = ("torch", "onnxruntime")

Clock = Callable[[], float]
Run = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)
Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Features:
    """The input of an encoder: audio [1, 104, T] and video [1, 1, T, 88, 88]."""

    audio: Tensor
    video: Tensor

    @classmethod
    def random(cls, frames: int, dtype: torch.dtype = torch.float32) -> Features:
        """Random features of a clip of so many video frames, the same in every process."""
        generator = torch.Generator().manual_seed(0)
        audio = torch.randn(1, FEATURES, frames, generator=generator)
        video = torch.randn(1, 1, frames, CROP, CROP, generator=generator)
        return cls(audio.to(dtype), video.to(dtype))

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return self.video.shape[2] / FPS

    def inputs(self, encoder: EncoderNetwork) -> dict[str, Tensor]:
        """The inputs that an encoder takes by name; paper B's encoders take video only."""
        if isinstance(encoder, ConformerEncoder):
            return {"video": self.video}
        return {"audio": self.audio, "video": self.video}


def measure_in_turn(
    runs: Mapping[Key, Callable[[], Measured]], rounds: int
) -> dict[Key, list[Measured]]:
    """Call every function once to warm up, then once per round.

    The order changes from round to round: in a fixed order the first of those that share their
    input would always be the one that does not find it in the cache.

    Args:
        runs: functions that measure themselves.
        rounds: number of calls of each after the warm-up.

    Returns:
        What each function returned in each round.
    """
    for run in Progress(runs.values(), desc="warming up", unit="run", leave=False):
        run()
    found: dict[Key, list[Measured]] = {key: [] for key in runs}
    order, generator = list(runs), random.Random(0)
    for _ in Progress(range(rounds), desc="measuring", unit="round", leave=False):
        generator.shuffle(order)
        for key in order:
            found[key].append(runs[key]())
    return found


def time_in_turn(
    runs: Mapping[Key, Run], rounds: int, clock: Clock = time.perf_counter
) -> dict[Key, list[float]]:
    """Time every function once per round, after a warm-up; see `measure_in_turn`.

    Args:
        runs: what to time.
        rounds: number of timed calls of each.
        clock: where the time comes from.

    Returns:
        Seconds of each function in each round.
    """

    def timed(run: Run) -> Callable[[], float]:
        def measure() -> float:
            start = clock()
            run()
            return clock() - start

        return measure

    return measure_in_turn({key: timed(run) for key, run in runs.items()}, rounds)


def medians(times: Mapping[Key, list[float]]) -> dict[Key, float]:
    """The median of each list."""
    return {key: statistics.median(values) for key, values in times.items()}


def machine() -> dict[str, str]:
    """Processor, operating system and versions, for a report."""
    found = {"cpu": _cpu(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _cpu() -> str:
    """The processor's name according to Linux, and PyTorch's widest vector instructions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
