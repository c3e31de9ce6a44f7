"""Read audio and compute AV-HuBERT's features: stacked log filter banks."""

from __future__ import annotations

import io
import math
import os
from functools import cache
from pathlib import Path

import numpy as np

from avhubert_ext.data.files import whole_file
from avhubert_ext.data.rates import SAMPLE_RATE, SAMPLES_PER_FRAME
from avhubert_ext.errors import InputError

FILTERS = 26
WINDOW, SHIFT, BINS = 400, 160, 512  # samples per window and hop; bins of the Fourier transform
STACK = 4  # filter-bank frames (100 Hz) per video frame (25 Hz)
FEATURES = FILTERS * STACK


def load_audio(path: Path | str, start: int = 0, samples: int = -1) -> np.ndarray:
    """Read a 16 kHz mono file.

    Args:
        path: The audio file.
        start: The first sample to read.
        samples: The largest number of samples to read; -1 reads to the end.

    Returns:
        int16 [N].

    Raises:
        InputError: If the file is missing, unreadable, empty, or not 16 kHz mono.
    """
    import soundfile

    if not os.path.isfile(path):  # False also for a name that no file can have
        raise InputError(f"{path} not found; run `avhubert-ext data prepare` again")
    try:
        read, rate = soundfile.read(path, samples, start, dtype="int16", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path}: not a readable audio file ({error})") from None
    _check_form(path, rate, read.shape[1])
    if not len(read):
        raise InputError(f"{path}: no samples; remove the utterance from the manifest")
    return read[:, 0]


def audio_length(path: Path | str) -> int:
    """Return the number of samples in a 16 kHz mono file according to its header.

    Raises:
        InputError: If the file is missing, unreadable, empty, or not 16 kHz mono.
    """
    import soundfile

    if not os.path.isfile(path):
        raise InputError(f"{path} not found; run `avhubert-ext data prepare` again")
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path}: not a readable audio file ({error})") from None
    _check_form(path, info.samplerate, info.channels)
    if not info.frames:
        raise InputError(f"{path}: no samples; remove the file from its list")
    return info.frames


def _check_form(path: Path | str, rate: int, channels: int) -> None:
    if rate != SAMPLE_RATE:
        raise InputError(f"{path}: sample rate is {rate} Hz, expected 16000 Hz: resample the file")
    if channels != 1:
        raise InputError(f"{path}: {channels} channels, expected mono: mix the channels down")


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Write samples, int16 [N], as a 16 kHz wav file. The file is never left half-written."""
    # Encoded in memory first: unlike write_bytes, soundfile does not report a full disk.
    content = wav_bytes(samples)
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def wav_bytes(samples: np.ndarray) -> bytes:
    """Return the content of a 16 kHz wav file with these samples, int16 [N]."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def check_samples(samples: np.ndarray, name: str) -> None:
    """Raise an InputError unless `samples` is int16 [N]: another scale would go unnoticed.

    Args:
        samples: The array to check.
        name: Its name in the error message.
    """
    found = np.asarray(samples)
    if not isinstance(samples, np.ndarray) or found.dtype != np.int16 or found.ndim != 1:
        raise InputError(
            f"{name} is {type(samples).__name__} of {found.dtype} {list(found.shape)}, expected an "
            "array of int16 [samples]: multiply samples in -1 to 1 by 32767 and cast them"
        )
    if not found.size:
        raise InputError(f"{name} has no samples")


def audio_features(
    waveform: np.ndarray, sample_rate: int = SAMPLE_RATE, n_frames: int | None = None
) -> np.ndarray:
    """Compute AV-HuBERT's audio features (Shi et al., 2022).

    Args:
        waveform: int16 [N]. The scale of int16 matters: the filter banks are log energies.
        sample_rate: Must be 16000 Hz.
        n_frames: Cut or zero-pad to this number of video frames; None keeps the length.

    Returns:
        float32 [T, 104] at 25 Hz: 26 log filter banks at 100 Hz, four frames stacked, each
        stacked frame normalized to zero mean and unit variance.

    Raises:
        InputError: For another sample rate or another kind of array.
    """
    if sample_rate != SAMPLE_RATE:
        raise InputError(f"sample rate is {sample_rate} Hz, expected 16000 Hz: resample first")
    check_samples(waveform, "waveform")
    if n_frames is not None and n_frames < 1:
        raise InputError(f"n_frames is {n_frames}: expected at least 1")
    return features_of(waveform, n_frames)


def features_of(samples: np.ndarray, n_frames: int | None) -> np.ndarray:
    """Compute `audio_features` from samples [N] of any type, in the scale of int16."""
    bands = log_filter_bank(samples).astype(np.float32)
    padding = -len(bands) % STACK
    stacked = np.pad(bands, ((0, padding), (0, 0))).reshape(-1, FEATURES)
    if n_frames is not None:
        missing = max(0, n_frames - len(stacked))
        stacked = np.pad(stacked[:n_frames], ((0, missing), (0, 0)))
    mean = stacked.mean(axis=1, keepdims=True)
    variance = stacked.var(axis=1, keepdims=True)
    return (stacked - mean) / np.sqrt(variance + np.float32(1e-5))


def log_filter_bank(samples: np.ndarray) -> np.ndarray:
    """Compute the log energies of 26 mel bands at 100 Hz: [N] -> float64 [L, 26].

    Bit-identical to python_speech_features.logfbank, which AV-HuBERT uses: pre-emphasis of 0.97,
    rectangular windows of 25 ms, the last one zero-padded, and 512 FFT bins.
    """
    emphasized = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    count = 1 + max(0, math.ceil((len(emphasized) - WINDOW) / SHIFT))
    padded = np.zeros((count - 1) * SHIFT + WINDOW)
    padded[: len(emphasized)] = emphasized
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::SHIFT]
    power = 1.0 / BINS * np.square(np.absolute(np.fft.rfft(frames, BINS)))
    energies = power @ _triangles().T
    return np.log(np.where(energies == 0, np.finfo(np.float64).eps, energies))


@cache
def _triangles() -> np.ndarray:
    """Return the weight of each FFT bin in each mel band: float64 [26, 257]."""
    mels = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700.0), FILTERS + 2)
    corners = np.floor((BINS + 1) * (700 * (10 ** (mels / 2595.0) - 1)) / SAMPLE_RATE)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.arange(BINS // 2 + 1)
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.where(bins < middle, rising, falling).clip(min=0)


def waveform_input(samples: np.ndarray, n_frames: int) -> np.ndarray:
    """Normalize a waveform as Auto-AVSR does: zero mean and unit variance over the utterance.

    Args:
        samples: int16 [N].
        n_frames: The number of video frames; the waveform is cut or zero-padded to their length.

    Returns:
        float32 [n_frames, 640].

    Raises:
        InputError: If `samples` is another kind of array.
    """
    check_samples(samples, "samples")
    values = samples.astype(np.float32) / 32768
    normalized = (values - values.mean()) / np.sqrt(values.var() + 1e-8)
    fitted = np.zeros(n_frames * SAMPLES_PER_FRAME, np.float32)
    fitted[: len(normalized)] = normalized[: len(fitted)]
    return fitted.reshape(n_frames, SAMPLES_PER_FRAME)
