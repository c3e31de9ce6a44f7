"""How fast training data is read on one core, in utterances per second.

`AVDataset` with a warm cache is compared with a plain data set that works like AV-HuBERT's: in
every epoch OpenCV decodes every video, pixels are normalized in float64, and filter banks are
computed from every WAV file. Both read the same utterances with the same random crops, flips and
noise. Set OMP_NUM_THREADS=1 to keep numpy on one core too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from avhubert_ext.benchmarks.timing import machine, medians, time_in_turn
from avhubert_ext.data.audio import FEATURES, SAMPLE_RATE, STACK
from avhubert_ext.data.batching import PassIndex
from avhubert_ext.data.dataset import AVDataset, DataConfig
from avhubert_ext.data.noise import NoiseConfig, NoiseDraw, hashed_generator
from avhubert_ext.data.video import CROP, MEAN, STD
from avhubert_ext.errors import InputError


def plain_sample(dataset: AVDataset, key: PassIndex) -> tuple[Tensor, Tensor]:
    """Read an utterance the plain way.

    Args:
        dataset: a data set with both modalities, augmentation and no `max_frames`.
        key: pass over the data, and index.

    Returns:
        Audio [104, T] and video [1, T, 88, 88], the same as `dataset[key]` up to rounding.
    """
    pass_index, index = key
    utterance = dataset.utterances[index]
    rng = hashed_generator("crop", dataset.config.seed, utterance.id, pass_index)
    video = _plain_video(utterance.video, rng)
    draw = dataset.mixer.draw(utterance.id, pass_index) if dataset.mixer else None
    return _plain_audio(utterance.audio, dataset, draw, video.shape[1]), video


def _plain_video(path: Path, rng: np.random.Generator) -> Tensor:
    cv2 = _opencv()
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames = []
    while True:
        found, frame = capture.read()
        if not found:
            break
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))
    pixels = np.stack(frames) / 255.0
    height, width = pixels.shape[1:]
    left = int(rng.integers(width - CROP + 1))
    top = int(rng.integers(height - CROP + 1))
    pixels = pixels[:, top : top + CROP, left : left + CROP]
    if rng.random() < 0.5:
        for frame in pixels:
            frame[:] = cv2.flip(frame, 1)
    return torch.from_numpy(((pixels - MEAN) / STD).astype(np.float32))[None]


def _plain_audio(
    path: Path, dataset: AVDataset, draw: NoiseDraw | None, video_frames: int
) -> Tensor:
    from python_speech_features import logfbank
    from scipy.io import wavfile

    _, waveform = wavfile.read(path)
    if draw is not None:
        waveform = dataset.mixer.add(waveform, draw)
    bands = logfbank(waveform, SAMPLE_RATE).astype(np.float32)
    bands = np.concatenate([bands, np.zeros((-len(bands) % STACK, bands.shape[1]), np.float32)])
    stacked = bands.reshape(-1, FEATURES)[:video_frames]
    missing = np.zeros((video_frames - len(stacked), FEATURES), np.float32)
    return F.layer_norm(torch.from_numpy(np.concatenate([stacked, missing])), (FEATURES,)).T


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError:
        raise InputError("opencv is missing: pip install opencv-python-headless") from None
    return cv2


def benchmark_data(
    data: Path, split: str = "train", noise: tuple[Path, ...] = (), rounds: int = 5
) -> dict[str, Any]:
    """Time how fast both data sets read a split.

    Args:
        data: manifest folder.
        split: name of the manifest.
        noise: folders written by `data noise`, mixed in with probability 0.25 at 0 dB; none for
            clean speech.
        rounds: number of epochs that are timed, after one that fills the cache.

    Returns:
        The conditions, and utterances per second of both.

    Raises:
        InputError: if OpenCV is missing, or an utterance cannot be read.
    """
    import av

    cv2 = _opencv()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        mixing = NoiseConfig(noise) if noise else None
        dataset = AVDataset(data, split, DataConfig(augment=True, noise=mixing, cache=Path(cache)))
        start = time.perf_counter()
        _epochs(dataset, dataset.__getitem__)()
        first = time.perf_counter() - start
        runs = {
            "ours": _epochs(dataset, dataset.__getitem__),
            "plain": _epochs(dataset, partial(plain_sample, dataset)),
        }
        seconds = medians(time_in_turn(runs, rounds))
    total = len(dataset)
    return {
        "machine": machine() | {"av": av.__version__, "opencv": cv2.__version__},
        "threads": 1,
        "data": str(data),
        "split": split,
        "utterances": total,
        "mean_frames": float(dataset.frames().mean()),
        "noise": [str(folder) for folder in noise],
        "noise_probability": mixing.probability if mixing else 0.0,
        "rounds": rounds,
        "utterances_per_second": {name: total / s for name, s in seconds.items()},
        "utterances_per_second_first_epoch": total / first,
        "speed_up": seconds["plain"] / seconds["ours"],
    }


def _epochs(dataset: AVDataset, read: Callable[[PassIndex], object]) -> Callable[[], None]:
    """A function that reads every utterance once, in its n-th call those of pass n."""
    passes = count()

    def epoch() -> None:
        number = next(passes)
        for index in range(len(dataset)):
            read((number, index))

    return epoch


def text_table(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    speed = report["utterances_per_second"]
    noise = f"noise in {report['noise_probability']:.0%}" if report["noise"] else "no noise"
    return "\n".join(
        [
            f"{report['utterances']} utterances of {report['mean_frames']:.0f} frames on average, "
            f"{noise}, one thread, median of {report['rounds']} epochs; {report['machine']['cpu']}",
            "",
            f"plain data set         {speed['plain']:8.1f} utterances/s",
            f"this one               {speed['ours']:8.1f} utterances/s, "
            f"{report['speed_up']:.2f} times as fast",
            f"its first epoch        {report['utterances_per_second_first_epoch']:8.1f} "
            "utterances/s, while it fills the cache",
        ]
    )
