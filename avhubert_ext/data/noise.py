"""Acoustic noise: AV-HuBERT's mixing arithmetic, and a reproducible choice of snippet and level.

AV-HuBERT always takes the first samples of a noise file; here the start is drawn.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from avhubert_ext.data.audio import load_audio
from avhubert_ext.data.manifest import read_lines
from avhubert_ext.errors import InputError

INT16 = np.iinfo(np.int16)
MAX_DRAWS = 100  # of a noise file by another speaker


def hashed_generator(*key: object) -> np.random.Generator:
    """A generator that depends on the key alone, not on batch order or workers."""
    digest = hashlib.sha256("|".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def mix(clean: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise at a signal-to-noise ratio, both RMS levels taken over the whole clip.

    clean: int16 [N]; noise: int16 [M], repeated if shorter, its first N samples if longer.
    Returns int16 [N]; where the sum leaves the int16 range it is scaled down to just fit
    (AV-HuBERT's arithmetic, float32, truncated). Silent speech or noise leaves `clean` as it is.
    """
    speech = clean.astype(np.float32)
    added = np.resize(noise, len(clean)).astype(np.float32)
    speech_rms = np.sqrt(np.mean(speech**2))
    noise_rms = np.sqrt(np.mean(added**2))
    if speech_rms == 0 or noise_rms == 0:
        return clean
    mixed = speech + added * np.float32(speech_rms / 10 ** (snr_db / 20) / noise_rms)
    high, low = mixed.max(), mixed.min()
    if high > INT16.max or low < INT16.min:
        mixed *= INT16.max / high if high >= -low else INT16.min / low
    return mixed.astype(np.int16)


@dataclass(frozen=True)
class NoiseConfig:
    """Which noise, how often, how loud.

    manifests: folders with `train.tsv`, `valid.tsv`, `test.tsv`, each one wav path a line.
    probability: of an utterance being noised. snr_db: lowest and highest, drawn uniformly.
    """

    manifests: tuple[Path, ...]
    probability: float = 0.25
    snr_db: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not self.manifests:
            raise InputError("noise without a manifest: name folders of `avhubert-ext noise`")
        if not (_is_number(self.probability) and 0 <= self.probability <= 1):
            raise InputError(f"noise probability {self.probability!r}: expected 0 to 1")
        if not all(map(_is_number, self.snr_db)) or self.snr_db[0] > self.snr_db[1]:
            raise InputError(
                f"noise at {list(self.snr_db)} dB: expected two numbers, the lower one first"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)


class NoiseMixer:
    """Adds noise to utterances; the draw depends on (seed, utterance, pass) alone."""

    def __init__(self, config: NoiseConfig, split: str, seed: int) -> None:
        self.config = config
        self.seed = seed
        # One list a kind of noise: kinds are equally likely, whatever their number of files.
        self.kinds = [_noise_files(folder / f"{split}.tsv") for folder in config.manifests]

    def __call__(self, utterance_id: str, clean: np.ndarray, pass_index: int) -> np.ndarray:
        """int16 [N] -> int16 [N]; `pass_index` is the epoch, or the pass of an evaluation."""
        rng = hashed_generator("noise", self.seed, utterance_id, pass_index)
        if rng.random() >= self.config.probability:
            return clean
        files = self.kinds[rng.integers(len(self.kinds))]
        noise = load_audio(_other_speaker(files, utterance_id, rng))
        noise = np.roll(noise, -int(rng.integers(len(noise))))
        return mix(clean, noise, rng.uniform(*self.config.snr_db))


def _other_speaker(files: list[Path], utterance_id: str, rng: np.random.Generator) -> Path:
    """A file drawn from those of other speakers: a second talker must not be the first.

    The speaker is the folder that an utterance is in, as in LRS3: `trainval/SPEAKER/CLIP`.
    """
    speaker = PurePosixPath(utterance_id).parent.name
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
