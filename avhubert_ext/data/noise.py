"""Acoustic noise: AV-HuBERT's mixing arithmetic, and a reproducible choice of snippet and level."""

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
MAX_DRAWS = 100  # of a noise file by another speaker
STARTS = ("random", "first")


def hashed_generator(*key: object) -> np.random.Generator:
    """A generator that depends on the key alone, not on batch order or workers."""
    digest = hashlib.sha256("|".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def add_noise(clean: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise at a signal-to-noise ratio, both RMS levels taken over the whole clip.

    clean: int16 [N]; noise: int16 [M], repeated if shorter, its first N samples if longer.
    Returns int16 [N]; where the sum leaves the int16 range it is scaled down to just fit
    (AV-HuBERT's arithmetic, float32, truncated). Silent speech or noise leaves `clean` as it is.
    Raises InputError for another kind of array, and for a level that is no number.
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
    """Which noise, how often, how loud.

    manifests: folders with `train.tsv`, `valid.tsv`, `test.tsv`, each one wav path a line; each
    folder is a kind of noise, and kinds are equally likely whatever their number of files.
    probability: of an utterance being noised. snr_db: lowest and highest; where they differ a
    whole number of dB between them is drawn, both included, as AV-HuBERT does.
    mixed: number of noise files averaged into one noise. start: where a snippet begins in its file,
    drawn (`random`), or at its first sample, AV-HuBERT's way (`first`).
    """

    manifests: tuple[Path, ...]
    probability: float = 0.25
    snr_db: tuple[float, float] = (0.0, 0.0)
    mixed: int = 1
    start: str = "random"

    def __post_init__(self) -> None:
        if not self.manifests:
            raise InputError("noise without a manifest: name folders of `avhubert-ext noise`")
        if not (_is_number(self.probability) and 0 <= self.probability <= 1):
            raise InputError(f"noise probability {self.probability!r}: expected 0 to 1")
        if not all(map(_is_number, self.snr_db)) or self.snr_db[0] > self.snr_db[1]:
            raise InputError(
                f"noise at {list(self.snr_db)} dB: expected two numbers, the lower one first"
            )
        low, high = self.snr_db
        if low != high and not (float(low).is_integer() and float(high).is_integer()):
            raise InputError(f"noise at {low:g} to {high:g} dB: a range is of whole numbers of dB")
        if not isinstance(self.mixed, int) or self.mixed < 1:
            raise InputError(f"noise of {self.mixed!r} files mixed: expected at least 1")
        if self.start not in STARTS:
            raise InputError(f"noise start '{self.start}': expected one of {', '.join(STARTS)}")

    @property
    def condition(self) -> str:
        """The condition in words, as `babble+music at 0 dB`; draws of snippets follow from it."""
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
    """What an utterance is mixed with: files, the sample each begins at, the level."""

    files: tuple[Path, ...]
    starts: tuple[int, ...]
    snr_db: float

    def record(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self) | {"files": [str(path) for path in self.files]}


class NoiseMixer:
    """Adds noise to utterances; the draw depends on (seed, condition, utterance, pass) alone."""

    def __init__(self, config: NoiseConfig, split: str, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.kinds = [_noise_files(folder / f"{split}.tsv") for folder in config.manifests]

    def draw(self, utterance_id: str, pass_index: int) -> NoiseDraw | None:
        """The noise of an utterance, None if it stays clean.

        `pass_index` is the epoch, or the pass of an evaluation.
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
        """int16 [N] -> int16 [N], mixed with what was drawn."""
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
    """Up to so many samples from `start` on, going on at the file's beginning: int16 [M].

    Only what is needed is read: music is minutes long, utterances seconds.
    """
    snippet = load_audio(path, start, samples)
    if len(snippet) == samples or start == 0:
        return snippet
    return np.concatenate([snippet, load_audio(path, 0, min(start, samples - len(snippet)))])


def speaker_of(utterance_id: str) -> str:
    """The folder of an utterance, as LRS3 names them, `trainval/SPEAKER/CLIP`; else nothing."""
    parts = PurePosixPath(utterance_id).parts
    return parts[-2] if len(parts) > 2 else ""


def _other_speaker(files: list[Path], utterance_id: str, rng: np.random.Generator) -> Path:
    """A file drawn from those of other speakers: a second talker must not be the first."""
    speaker = speaker_of(utterance_id)
    for _ in range(MAX_DRAWS):
        file = files[rng.integers(len(files))]
        if not speaker or file.parent.name != speaker:
            return file
    raise InputError(
        f"{files[0].parent}: hardly a noise file there is of another speaker than {speaker}, who "
        f"speaks in {utterance_id}; a second talker needs several speakers in every split"
    )


def _noise_files(manifest: Path) -> list[Path]:
    files = [Path(line) for line in read_lines(manifest) if line]
    if not files:
        raise InputError(f"{manifest} lists no noise file: make it with `avhubert-ext noise`")
    return files
