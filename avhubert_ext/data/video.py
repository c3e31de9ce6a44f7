"""Clips of mouth regions: decode, encode, crop, and normalize them."""

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

RATES = (24.9, 25.1)  # average frames per second that count as 25
DRIFT = 0.02  # share of the shorter one by which video and audio may differ in length
SLACK = 5  # frames (0.2 s) by which they may always differ: codecs pad their last block
CROP = 88  # pixels
MEAN, STD = 0.421, 0.165  # of pixels in [0, 1], from AV-HuBERT
X264 = {
    "preset": "fast",
    "threads": "1",  # the worker processes fill the cores
    "x264-params": "mbtree=0",  # with it, x264 reads uninitialized memory: files would differ
}


def load_video(path: Path | str) -> np.ndarray:
    """Read the frames of a prepared clip in gray, as AV-HuBERT does: BGR, then BT.601 luma.

    Args:
        path: The video, at 25 frames/s (`RATES`) on average.

    Returns:
        uint8 [T, H, W].

    Raises:
        InputError: If the file is missing, is damaged, or has another frame rate.
    """
    if not os.path.isfile(path):  # False also for a name that no file can have
        raise InputError(
            f"{path} not found; run `avhubert-ext data prepare` again, or correct the path"
        )
    video = intact_video(path, _luma)
    _check_rate(path, video.times, video.rate, video.tick)
    return np.stack(video.images)


def _check_rate(path: Path | str, times: list[float | None], header: float, tick: float) -> None:
    """Raise an InputError unless a video has 25 frames/s.

    Args:
        path: The video, for the error message.
        times: Time of each frame in seconds, None if unknown.
        header: The rate to check if the times are unknown.
        tick: Resolution of the times in seconds.
    """
    interval = 1 / header
    known = [time for time in times if time is not None]
    if len(times) > 1 and len(known) == len(times):
        # The slope, not last minus first, as single frames may be early or late.
        interval = float(np.polyfit(np.arange(len(known)), known, 1)[0])
        tick /= len(times) - 1
    else:
        tick = 0.0
    if not 1 / RATES[1] - tick < interval < 1 / RATES[0] + tick:
        found = (
            f"{1 / interval:.4g} frames/s" if interval > 0 else "its time stamps do not increase"
        )
        raise InputError(
            f"{path}: {found}, expected {FPS} frames/s; convert it with `avhubert-ext data "
            "video`, which accepts any rate"
        )


def check_in_step(path: Path | str, frames: int, samples: int) -> None:
    """Raise an InputError if the video and audio of a clip differ in length.

    They may differ by 2% of the shorter one (`DRIFT`), and always by 0.2 s (`SLACK`). A difference
    of more than 0.2 s is logged as a warning.

    Args:
        path: The video, for the error message.
        frames: Video frames at 25 frames/s.
        samples: Audio samples at 16 kHz.
    """
    heard = samples / SAMPLES_PER_FRAME
    if abs(heard - frames) > max(SLACK, DRIFT * min(heard, frames)):
        raise InputError(
            f"{path}: {frames} frames are {frames / FPS:.2f} s at {FPS} frames/s, but the audio "
            f"is {heard / FPS:.2f} s; convert a video of another rate with `avhubert-ext data "
            "video`, or cut both to the same length"
        )
    if abs(heard - frames) > SLACK:
        _warn(f"{path}: the video is {frames / FPS:.2f} s long, the audio {heard / FPS:.2f} s")


@cache
def _warn(message: str) -> None:
    """Log a message only once, although a clip is read in every epoch."""
    logger.warning(message)


def _luma(bgr: np.ndarray) -> np.ndarray:
    """Convert BGR uint8 [H, W, 3] to BT.601 luma with 15-bit weights, as OpenCV does."""
    weighted = bgr.astype(np.int32) @ np.array([3735, 19235, 9798], dtype=np.int32)
    return ((weighted + (1 << 14)) >> 15).astype(np.uint8)


def write_video(path: Path, frames: np.ndarray, fps: int, crf: int = 18) -> None:
    """Write gray frames as an H.264 mp4 file.

    Args:
        path: The file, with any suffix.
        frames: uint8 [T, H, W].
        fps: Frames per second.
        crf: Constant rate factor of x264; lower values give better quality and larger files.
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
    """Cut an 88x88 window from [T, H, W], the same in every frame, mirrored if `flip`."""
    window = frames[:, top : top + CROP, left : left + CROP]
    return window[:, :, ::-1] if flip else window


def center_crop(frames: np.ndarray) -> np.ndarray:
    """Cut the central 88x88 window from [T, H, W]."""
    height, width = frames.shape[1:]
    return crop(frames, (height - CROP) // 2, (width - CROP) // 2)


def normalize_pixels(frames: np.ndarray) -> np.ndarray:
    """Normalize pixels with AV-HuBERT's mean and deviation: uint8 [T, H, W] -> float32."""
    return (frames.astype(np.float32) / 255.0 - MEAN) / STD
