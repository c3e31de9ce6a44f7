"""Synthesize a noise corpus in the layout of MUSAN: talkers, music, and noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from avhubert_ext.data.audio import SAMPLE_RATE
from avhubert_ext.synth.grammar import open_sentence
from avhubert_ext.synth.speakers import make_talker, seeded
from avhubert_ext.synth.speech import speak

# Files of each kind. The talkers suffice for a babble of 30 in each of three splits.
COUNTS = {"speech": 90, "music": 6, "noise": 8}
SECONDS = (10.0, 20.0)  # shortest and longest file
PEAK = 0.5  # of full scale


def make_noise(
    kind: str, seed: int, index: int, seconds: tuple[float, float] = SECONDS
) -> np.ndarray:
    """File number `index` of a kind in `COUNTS`: int16 [N] at SAMPLE_RATE.

    seconds: length of the shortest and the longest file.
    """
    rng = seeded(seed, "noise tree", kind, index)
    n_samples = int(rng.uniform(*seconds) * SAMPLE_RATE)
    if kind == "speech":
        wave = _talker(seed, index, n_samples, rng)
    elif kind == "music":
        wave = _music(n_samples, rng)
    else:
        names = tuple(NOISES)
        wave = NOISES[names[index % len(names)]](n_samples, rng)
    return np.round(wave * (PEAK * 32767 / np.abs(wave).max())).astype(np.int16)


def _talker(seed: int, index: int, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Make one voice that says open sentences with short pauses: float [n_samples]."""
    voice = make_talker(seed, index)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < n_samples:
        parts.append(speak(open_sentence(rng).spoken, voice).samples)
        parts.append(np.zeros(int(rng.uniform(0.05, 0.3) * SAMPLE_RATE), np.int16))
    return np.concatenate(parts)[:n_samples].astype(float)


def _music(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Make chords, bass, and a melody in one key: float [n_samples]."""
    scale = np.array([0, 2, 4, 5, 7, 9, 11] if rng.random() < 0.6 else [0, 2, 3, 5, 7, 8, 10])
    key = rng.uniform(110, 196)  # Hz
    beat = 60 / rng.uniform(80, 140)  # s
    timbre = rng.uniform(0.4, 0.75)  # strength of each harmonic relative to the one before
    attack, decay = rng.uniform(0.005, 0.05), rng.uniform(0.3, 1.5)
    wave = np.zeros(n_samples)

    def hertz(degree: int) -> float:
        return key * 2 ** ((scale[degree % 7] + 12 * (degree // 7)) / 12)

    for number in range(int(n_samples / SAMPLE_RATE / beat)):
        start = number * beat
        if number % 4 == 0:
            root = int(rng.choice([0, 3, 4, 5]))
            for degree in (root - 7, root, root + 2, root + 4):
                _add_note(wave, start, 4 * beat, hertz(degree), 0.5, timbre, attack, decay)
        for half in range(int(rng.integers(1, 3))):
            degree = 7 + root + int(rng.choice([0, 1, 2, 4, 7]))
            late = start + half * beat / 2
            _add_note(wave, late, beat, hertz(degree), 1.0, timbre, attack, decay / 2)
    return wave


def _add_note(
    wave: np.ndarray,
    start: float,
    seconds: float,
    hertz: float,
    loudness: float,
    timbre: float,
    attack: float,
    decay: float,
) -> None:
    """Add a plucked note (times in seconds) to `wave` at SAMPLE_RATE, in place."""
    first = int(start * SAMPLE_RATE)
    time = np.arange(min(int(seconds * SAMPLE_RATE), len(wave) - first)) / SAMPLE_RATE
    envelope = np.minimum(time / attack, 1) * np.exp(-time / decay)
    envelope *= np.minimum(1, (seconds - time) / 0.02)  # no click at the end
    for harmonic in range(1, 1 + min(8, int(0.45 * SAMPLE_RATE / hertz))):
        tone = np.sin(2 * np.pi * harmonic * hertz * time)
        wave[first : first + len(time)] += loudness * timbre**harmonic * envelope * tone


def _colored(n_samples: int, rng: np.random.Generator, slope: float) -> np.ndarray:
    """Make noise with amplitude ~ frequency^-slope: float [n_samples]."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    hertz = np.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE)
    return np.fft.irfft(spectrum / np.maximum(hertz, 20.0) ** slope, n_samples)


def _band(n_samples: int, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Make noise between two frequencies in Hz: float [n_samples]."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    hertz = np.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE)
    spectrum[(hertz < low) | (hertz > high)] = 0
    return np.fft.irfft(spectrum, n_samples)


def _pink(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    return _colored(n_samples, rng, 0.5)


def _brown(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    return _colored(n_samples, rng, 1.0)


def _white(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(n_samples)


def _hum(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Make the sound of a machine: mains hum with harmonics over soft noise."""
    time = np.arange(n_samples) / SAMPLE_RATE
    base = rng.choice([50.0, 60.0])
    tones = sum(
        rng.uniform(0.2, 1) / k * np.sin(2 * np.pi * k * base * time + rng.uniform(0, 6))
        for k in range(1, 16)
    )
    pink = _pink(n_samples, rng)
    return tones + 0.3 * pink / pink.std()


def _clicks(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Make knocks and clicks at random times, each with a short ringing."""
    hits = np.zeros(n_samples)
    count = int(n_samples / SAMPLE_RATE * rng.uniform(3, 8))
    hits[rng.integers(0, n_samples, count)] = rng.uniform(0.3, 1, count)
    time = np.arange(int(0.08 * SAMPLE_RATE)) / SAMPLE_RATE
    ring = np.exp(-time / 0.012) * np.sin(2 * np.pi * rng.uniform(400, 2500) * time)
    return np.convolve(hits, ring)[:n_samples] + 0.003 * rng.standard_normal(n_samples)


def _wind(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Make low-frequency noise that swells and fades over seconds."""
    time = np.arange(n_samples) / SAMPLE_RATE
    swell = sum(
        np.sin(2 * np.pi * rng.uniform(0.05, 0.4) * time + rng.uniform(0, 6)) for _ in "abc"
    )
    return _band(n_samples, rng, 60, 700) * np.exp(0.6 * swell)


def _babbling_band(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Make noise in the speech band, modulated at the rate of syllables."""
    envelope = np.abs(_band(n_samples, rng, 0.5, rng.uniform(4, 8)))
    return _band(n_samples, rng, 250, 3800) * envelope


def _engine(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Make pulses with a drifting rate, like those of a motor."""
    time = np.arange(n_samples) / SAMPLE_RATE
    rate = rng.uniform(25, 60) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.05, 0.2) * time))
    pulse = np.cos(np.pi * np.cumsum(rate) / SAMPLE_RATE) ** 8
    return pulse * _band(n_samples, rng, 80, 1500) + 0.3 * _brown(n_samples, rng)


NOISES: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "pink": _pink,
    "brown": _brown,
    "white": _white,
    "hum": _hum,
    "clicks": _clicks,
    "wind": _wind,
    "babbling band": _babbling_band,
    "engine": _engine,
}
