"""Acoustic noise: AV-HuBERT's mixing arithmetic, and reproducible draws of snippet and level."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from avhubert_ext.data.audio import audio_length, check_samples, load_audio
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.errors import InputError

INT16 = np.iinfo(np.int16)
MAX_DRAWS = 100  # attempts to draw a noise file of another speaker
STARTS = ("random", "first")


def hashed_generator(*key: object) -> np.random.Generator:
    """Return a generator that depends on the key only, not on batch order or workers."""
    digest = hashlib.sha256("|".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def add_noise(clean: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise at a signal-to-noise ratio, with AV-HuBERT's arithmetic (Shi et al., 2022).

    The levels are RMS over the whole clip, in float32. A sum beyond the range of int16 is scaled
    down to fit, then truncated to int16. If speech or noise is silent, `clean` is returned as is.

    Args:
        clean: Speech, int16 [N].
        noise: int16 [M]; repeated if shorter, its first N samples if longer.
        snr_db: Signal-to-noise ratio in dB.

    Returns:
        int16 [N].

    Raises:
        InputError: For another kind of array, or if the ratio is not a finite number.
    """
    check_samples(clean, "clean")
    check_samples(noise, "noise")
    if not _is_number(snr_db):
        raise InputError(f"snr_db is {snr_db!r}: expected a number of dB")
    speech = clean.astype(np.float32)
    added = np.resize(noise, len(clean)).astype(np.float32)
    speech_rms = np.sqrt(np.mean(speech**2))
    noise_rms = np.sqrt(np.mean(added**2))
    if speech_rms == 0 or noise_rms == 0:
        return clean.copy()
    mixed = speech + added * np.float32(speech_rms / 10 ** (snr_db / 20) / noise_rms)
    high, low = mixed.max(), mixed.min()
    if high > INT16.max or low < INT16.min:
        mixed *= INT16.max / high if high >= -low else INT16.min / low
    return mixed.astype(np.int16)


@dataclass(frozen=True)
class NoiseConfig:
    """Which noise to add, how often, and how loud.

    Attributes:
        manifests: Folders with `train.tsv`, `valid.tsv`, and `test.tsv`, each with one wav path
            per line. Each folder is a kind of noise; kinds are equally likely, whatever their
            number of files.
        probability: Probability that an utterance gets noise.
        snr_db: Lowest and highest signal-to-noise ratio. If they differ, a whole number of dB
            between them (inclusive) is drawn, as in AV-HuBERT.
        mixed: The number of noise files averaged into one noise.
        start: Where a snippet begins in its file: `random`, or at the `first` sample, as in
            AV-HuBERT.

    Raises:
        InputError: If a value is invalid.
    """

    manifests: tuple[Path, ...]
    probability: float = 0.25
    snr_db: tuple[float, float] = (0.0, 0.0)
    mixed: int = 1
    start: str = "random"

    def __post_init__(self) -> None:
        if not self.manifests:
            raise InputError("noise without a manifest: name folders of `avhubert-ext data noise`")
        if not (_is_number(self.probability) and 0 <= self.probability <= 1):
            raise InputError(f"noise probability {self.probability!r}: expected 0 to 1")
        if not all(map(_is_number, self.snr_db)) or self.snr_db[0] > self.snr_db[1]:
            raise InputError(
                f"noise at {list(self.snr_db)} dB: expected two numbers, the lower one first"
            )
        low, high = self.snr_db
        if low != high and not (float(low).is_integer() and float(high).is_integer()):
            raise InputError(f"noise at {low:g} to {high:g} dB: a range needs whole numbers of dB")
        if not isinstance(self.mixed, int) or self.mixed < 1:
            raise InputError(f"noise of {self.mixed!r} files mixed: expected at least 1")
        if self.start not in STARTS:
            raise InputError(f"noise start '{self.start}': expected one of {', '.join(STARTS)}")

    @property
    def condition(self) -> str:
        """The condition in words, for example `babble+music at 0 dB`. It seeds the draws."""
        low, high = self.snr_db
        kinds = "+".join(folder.name for folder in self.manifests)
        level = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        mixed = f", {self.mixed} files mixed" if self.mixed > 1 else ""
        first = ", first samples" if self.start == "first" else ""
        return f"{kinds} at {level} dB{mixed}{first}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)


@dataclass(frozen=True)
class NoiseDraw:
    """The noise of one utterance.

    Attributes:
        files: The noise files.
        starts: The first sample of the snippet in each file.
        snr_db: The signal-to-noise ratio in dB.
    """

    files: tuple[Path, ...]
    starts: tuple[int, ...]
    snr_db: float

    def record(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self) | {"files": [str(path) for path in self.files]}


class NoiseMixer:
    """Adds noise to utterances. Draws depend on (seed, condition, utterance, pass) only.

    Args:
        config: Which noise to add.
        split: The split whose noise files are used.
        seed: Seed of the draws.

    Raises:
        InputError: If a noise manifest is missing or empty.
    """

    def __init__(self, config: NoiseConfig, split: str, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.kinds = [_noise_files(folder / f"{split}.tsv") for folder in config.manifests]

    def draw(self, utterance_id: str, pass_index: int) -> NoiseDraw | None:
        """Draw the noise of an utterance, None if it stays clean.

        Args:
            utterance_id: The name of the utterance in its manifest.
            pass_index: The epoch, or the pass of an evaluation.
        """
        c = self.config
        rng = hashed_generator("noise", self.seed, c.condition, utterance_id, pass_index)
        if rng.random() >= c.probability:
            return None
        files = self.kinds[rng.integers(len(self.kinds))]
        drawn = tuple(_other_speaker(files, utterance_id, rng) for _ in range(c.mixed))
        low, high = c.snr_db
        snr_db = low if low == high else float(rng.integers(int(low), int(high) + 1))
        starts = tuple(
            int(rng.integers(audio_length(file))) if c.start == "random" else 0 for file in drawn
        )
        return NoiseDraw(drawn, starts, snr_db)

    def add(self, clean: np.ndarray, draw: NoiseDraw | None) -> np.ndarray:
        """Add the drawn noise to speech: int16 [N] -> int16 [N]."""
        if draw is None:
            return clean
        snippets = [
            _snippet(file, start, len(clean))
            for file, start in zip(draw.files, draw.starts, strict=True)
        ]
        shortest = min(map(len, snippets))
        noise = np.floor(np.mean([snippet[:shortest] for snippet in snippets], axis=0))
        return add_noise(clean, noise.astype(np.int16), draw.snr_db)


def _snippet(path: Path, start: int, samples: int) -> np.ndarray:
    """Read at most `samples` samples from `start`, wrapping around at the end: int16 [M].

    Only these are read: music takes minutes, utterances seconds.
    """
    snippet = load_audio(path, start, samples)
    if len(snippet) == samples or start == 0:
        return snippet
    return np.concatenate([snippet, load_audio(path, 0, min(start, samples - len(snippet)))])


def speaker_of(utterance_id: str) -> str:
    """Return the speaker in an LRS3 name, `trainval/SPEAKER/CLIP`; empty for other names."""
    parts = PurePosixPath(utterance_id).parts
    return parts[-2] if len(parts) > 2 else ""


def _other_speaker(files: list[Path], utterance_id: str, rng: np.random.Generator) -> Path:
    """Draw a file of another speaker: the interfering talker must not be the speaker."""
    speaker = speaker_of(utterance_id)
    for _ in range(MAX_DRAWS):
        file = files[rng.integers(len(files))]
        if not speaker or file.parent.name != speaker:
            return file
    raise InputError(
        f"{files[0].parent}: nearly all noise files are of {speaker}, the speaker of "
        f"{utterance_id}; a second talker needs several speakers in every split"
    )


def _noise_files(manifest: Path) -> list[Path]:
    files = [Path(line) for line in read_lines(manifest) if line]
    if not files:
        raise InputError(f"{manifest} lists no noise file: make it with `avhubert-ext data noise`")
    return files
