"""Check the clips that s3prl gives to an upstream, and turn them into input for the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from avhubert_ext.data.audio import SAMPLES_PER_FRAME, features_of
from avhubert_ext.data.dataset import Sample
from avhubert_ext.data.video import CROP, center_crop, check_in_step, normalize_pixels
from avhubert_ext.errors import InputError

Array: TypeAlias = Tensor | np.ndarray
ClipInput: TypeAlias = Array | tuple[Array | None, Array | None]

INT16_SCALE = 32768
# int16 samples that were converted to floats without scaling exceed this if they are louder than
# -60 dB of full scale. Noise of unit variance, with which s3prl tests upstreams, never does.
LOUDEST = 32.0


def read_clips(clips: Sequence[ClipInput] | Tensor) -> list[Sample]:
    """Check clips and compute their features.

    A clip has as many frames as its video. Its audio must be about as long (`check_in_step`) and is
    cut or padded to fit. Without video there is one frame per 640 samples, the last one may have
    fewer.

    Args:
        clips: Waveforms, or pairs (waveform, video) of which one may be None; tensors on any device
            or NumPy arrays. Waveform: floats [samples] at 16 kHz, full scale is 1. Video: uint8
            [T, H, W], gray frames of the mouth region, 25 per second, H and W at least 88.

    Returns:
        The input for the encoder, one sample per clip.

    Raises:
        InputError: A clip is invalid; the message has its position in the list.
    """
    if not isinstance(clips, (list, tuple, Tensor)) or len(clips) == 0:
        found = (
            "an empty list" if isinstance(clips, (list, tuple, Tensor)) else type(clips).__name__
        )
        raise InputError(f"the input is {found}: expected a list of at least one waveform or pair")
    return [read_clip(clip, f"clip {number}") for number, clip in enumerate(clips)]


def read_clip(clip: ClipInput, name: str) -> Sample:
    """Check one clip and compute its features; `name` is for messages."""
    is_pair = isinstance(clip, (tuple, list)) and len(clip) == 2
    waveform, video = clip if is_pair else (clip, None)
    if waveform is None and video is None:
        raise InputError(f"{name} has neither waveform nor video: give at least one of them")
    samples = None if waveform is None else read_waveform(waveform, name)
    frames = None if video is None else read_video(video, name)
    if samples is not None and frames is not None:
        check_in_step(name, len(frames), len(samples))
    n_frames = -(-len(samples) // SAMPLES_PER_FRAME) if frames is None else len(frames)
    audio = None if samples is None else features_of(samples, n_frames)
    return Sample(
        None if audio is None else torch.from_numpy(np.ascontiguousarray(audio.T)),
        None if frames is None else torch.from_numpy(normalize_pixels(center_crop(frames)))[None],
        n_frames,
    )


def read_waveform(waveform: Array, name: str) -> np.ndarray:
    """Check a waveform.

    Returns:
        float64 [samples], scaled to int16 and rounded, as if read from a file.

    Raises:
        InputError: It is empty, not floats in [-1, 1], or has more than one channel.
    """
    samples = as_numpy(waveform, f"{name}: its waveform")
    if not np.issubdtype(samples.dtype, np.floating):
        raise InputError(
            f"{name}: its waveform is {samples.dtype}, expected floats in [-1, 1]: divide int16 "
            "samples by 32768; pass a video in a pair (waveform, video)"
        )
    if samples.ndim != 1 or not samples.size:
        raise InputError(
            f"{name}: its waveform has shape {list(samples.shape)}, expected [samples], at least "
            "one: mix channels down, leave empty recordings out"
        )
    if not np.isfinite(samples).all():
        raise InputError(
            f"{name}: its waveform has NaN or infinite samples, expected floats in [-1, 1]: "
            "correct or leave out the recording"
        )
    loudest = np.abs(samples).max()
    if loudest > LOUDEST:
        raise InputError(
            f"{name}: its waveform reaches {loudest:.6g}, expected samples in [-1, 1]: divide "
            "int16 samples by 32768"
        )
    return np.round(samples.astype(np.float64) * INT16_SCALE)


def read_video(video: Array, name: str) -> np.ndarray:
    """Check a video.

    Returns:
        uint8 [T, H, W], at least as large as the crop.

    Raises:
        InputError: It is not uint8, empty or too small.
    """
    frames = as_numpy(video, f"{name}: its video")
    if frames.dtype != np.uint8:
        raise InputError(
            f"{name}: its video is {frames.dtype}, expected uint8 gray frames from 0 to 255: do "
            "not scale or normalize them"
        )
    if frames.ndim != 3 or not len(frames) or min(frames.shape[1:]) < CROP:
        raise InputError(
            f"{name}: its video has shape {list(frames.shape)}, expected [T, H, W], at least one "
            f"gray frame of {CROP}x{CROP} or more: crop the mouth region to 96x96"
        )
    return frames


def as_numpy(value: object, name: str) -> np.ndarray:
    """The content of a tensor or array on the CPU, without gradient; float tensors as float64."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.double() if value.is_floating_point() else value).numpy()
    if isinstance(value, np.ndarray):
        return value
    raise InputError(
        f"{name} is a {type(value).__name__}, expected a tensor or NumPy array; a clip is a "
        "waveform or a pair (waveform, video)"
    )


def by_streams(samples: list[Sample]) -> list[list[int]]:
    """The indices of the samples in groups with the same streams."""
    groups: dict[tuple[bool, bool], list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault((sample.audio is None, sample.video is None), []).append(index)
    return list(groups.values())
