"""Mouth-region video: decoding, encoding, cropping, normalizing."""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path

import numpy as np

from avhubert_ext.data.pictures import intact_video
from avhubert_ext.data.rates import FPS, SAMPLES_PER_FRAME
from avhubert_ext.errors import InputError

logger = logging.getLogger(__name__)

RATES = (24.9, 25.1)  # frames a second on average that pass for 25
DRIFT = 0.02  # share of the shorter one by which picture and sound may differ in length
SLACK = 5  # frames (0.2 s) by which they may differ in any case: codecs fill up their last block
CROP = 88  # pixels
MEAN, STD = 0.421, 0.165  # of pixels in [0, 1], AV-HuBERT's
X264 = {
    "preset": "fast",
    "threads": "1",  # workers fill the cores
    "x264-params": "mbtree=0",  # with it x264 reads memory it never wrote: no two files are equal
}


def load_video(path: Path | str) -> np.ndarray:
    """All frames as gray uint8 [T, H, W]: decoded to BGR, then BT.601 luma, as AV-HuBERT does.

    Raises InputError that names the file if it is missing, does not decode, or does not have 25
    frames a second (`RATES`, by the mean of its time stamps).
    """
    if not os.path.isfile(path):  # False also for a name that no file can have
        raise InputError(
            f"{path} not found; run `avhubert-ext data prepare` again, or correct the path"
        )
    video = intact_video(path, _luma)
    _check_rate(path, video.times, video.rate, video.tick)
    return np.stack(video.images)


def _check_rate(path: Path | str, times: list[float | None], header: float, tick: float) -> None:
    """Raise an InputError unless frames come 25 times a second.

    times: of the frames in seconds, accurate to a `tick`; header: the rate where there are none.
    """
    interval = 1 / header
    if len(times) > 1 and None not in times:
        # The slope, not last minus first: single frames may be early or late.
        interval = float(np.polyfit(np.arange(len(times)), times, 1)[0])
        tick /= len(times) - 1
    else:
        tick = 0.0
    if not 1 / RATES[1] - tick < interval < 1 / RATES[0] + tick:
        found = f"{1 / interval:.4g}" if interval > 0 else "no constant number of"
        raise InputError(
            f"{path}: {found} frames a second, expected {FPS} frames a second; convert it with "
            "`avhubert-ext prepare-video`, which takes any rate"
        )


def check_in_step(path: Path | str, frames: int, samples: int) -> None:
    """Raise an InputError if picture and sound of one clip differ in length.

    frames: of the video at 25 a second; samples: of the audio at 16 kHz. They may differ by 2% of
    the shorter one (`DRIFT`), and by 0.2 s (`SLACK`) in any case; beyond 0.2 s there is a warning.
    """
    heard = samples / SAMPLES_PER_FRAME
    if abs(heard - frames) > max(SLACK, DRIFT * min(heard, frames)):
        raise InputError(
            f"{path}: {frames} frames are {frames / FPS:.2f} s at {FPS} a second, but its audio "
            f"is {heard / FPS:.2f} s; convert a video of another rate with `avhubert-ext "
            "prepare-video`, or cut both to the same length"
        )
    if abs(heard - frames) > SLACK:
        _warn(f"{path}: the picture is {frames / FPS:.2f} s long, its audio {heard / FPS:.2f} s")


@cache
def _warn(message: str) -> None:
    """Log a message once, though a clip is read in every epoch."""
    logger.warning(message)


def _luma(bgr: np.ndarray) -> np.ndarray:
    """BT.601 luma of uint8 [H, W, 3] with 15-bit weights, as OpenCV computes it."""
    weighted = bgr.astype(np.int32) @ np.array([3735, 19235, 9798], dtype=np.int32)
    return ((weighted + (1 << 14)) >> 15).astype(np.uint8)


def write_video(path: Path, frames: np.ndarray, fps: int, crf: int = 18) -> None:
    """Write uint8 frames [T, H, W] as an H.264 mp4, whatever the suffix of `path`.

    crf: x264's quality; lower is better and larger.
    """
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=X264 | {"crf": str(crf)})
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def crop(frames: np.ndarray, top: int, left: int, flip: bool = False) -> np.ndarray:
    """An 88x88 window of [T, H, W], the same in every frame, mirrored if `flip`."""
    window = frames[:, top : top + CROP, left : left + CROP]
    return window[:, :, ::-1] if flip else window


def center_crop(frames: np.ndarray) -> np.ndarray:
    """The middle 88x88 window."""
    height, width = frames.shape[1:]
    return crop(frames, (height - CROP) // 2, (width - CROP) // 2)


def normalize_pixels(frames: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W] -> float32, normalized."""
    return (frames.astype(np.float32) / 255.0 - MEAN) / STD
