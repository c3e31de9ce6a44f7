"""MUSAN and a corpus in, noise manifests out: babble, music, noise, a second talker.

Each split has its own files. Babble is a mix of up to 30 talkers, and a talker's file serves one
split only (paper A, section 3.1); MUSAN does not say which of its files share a talker, so a file
counts as one. The second talker is an utterance of the same split, of another speaker.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avhubert_ext.data.audio import SAMPLE_RATE, load_audio, write_wav
from avhubert_ext.data.files import write_text
from avhubert_ext.data.manifest import read_manifest
from avhubert_ext.data.noise import hashed_generator, speaker_of
from avhubert_ext.errors import InputError

SPLITS = ("train", "valid", "test")
BABBLE_TALKERS = 30
BABBLE_SECONDS = 20
BABBLE_FILES = 10  # a split, each with its own draw of talkers and of where they begin


def prepare_noise(musan: Path, out: Path, seed: int = 1, manifests: Path | None = None) -> None:
    """Write `OUT/{babble,music,noise}/{train,valid,test}.tsv`, one absolute wav path a line.

    Who speaks in a babble: `OUT/babble/SPLIT/talkers.tsv`, its wav file, then those of the talkers.
    manifests: a corpus' manifest folder; with it also `OUT/talker`, a second talker as noise.
    """
    talkers = _by_split(_files(musan, "speech"), seed)
    kinds = {kind: _by_split(_files(musan, kind), seed) for kind in ("music", "noise")}
    if manifests is not None:
        kinds["talker"] = {s: _second_talkers(manifests / f"{s}.tsv") for s in SPLITS}
    kinds["babble"] = {s: _babble(talkers[s], seed, out / "babble" / s) for s in SPLITS}
    for kind, splits in kinds.items():
        for split, files in splits.items():
            lines = "".join(f"{f.absolute()}\n" for f in files)
            write_text(out / kind / f"{split}.tsv", lines)


def _babble(talkers: list[Path], seed: int, folder: Path) -> list[Path]:
    """Write a split's babble into `folder`; returns its files."""
    files, lines = [], []
    for number in range(BABBLE_FILES):
        rng = hashed_generator("babble", seed, folder.name, number)
        order = rng.permutation(len(talkers))[:BABBLE_TALKERS]
        chosen = [talkers[index] for index in order]
        files.append(folder / f"{number:02d}.wav")
        write_wav(files[-1], mix_babble(chosen, rng))
        lines.append("\t".join(str(path.absolute()) for path in [files[-1], *chosen]))
    write_text(folder / "talkers.tsv", "\n".join(lines) + "\n")
    return files


def _second_talkers(manifest: Path) -> list[Path]:
    """A split's utterances; it must have two speakers, for none is mixed with itself."""
    utterances = read_manifest(manifest)
    speakers = {speaker_of(u.id) for u in utterances}
    if len(speakers) == 1 and speakers != {""}:
        raise InputError(
            f"{manifest}: all utterances are by {speakers.pop()}, a second talker needs another "
            "speaker: prepare the corpus with a larger --valid-fraction, or more speakers"
        )
    return [u.audio for u in utterances]


def mix_babble(talkers: list[Path], rng: np.random.Generator) -> np.ndarray:
    """The talkers at equal level, each from a random offset: int16 [20 s]."""
    samples = BABBLE_SECONDS * SAMPLE_RATE
    total = np.zeros(samples)
    for path in talkers:
        speech = load_audio(path).astype(np.float64)
        offset = rng.integers(len(speech))
        speech = np.resize(np.roll(speech, -int(offset)), samples)
        total += speech / max(1.0, np.sqrt(np.mean(speech**2)))
    return np.round(total * (0.5 * np.iinfo(np.int16).max / np.abs(total).max())).astype(np.int16)


def _files(musan: Path, kind: str) -> list[Path]:
    found = sorted((musan / kind).rglob("*.wav"))
    if len(found) < len(SPLITS):
        raise InputError(
            f"{musan / kind}: {len(found)} wav files, expected at least {len(SPLITS)}, one for "
            "each split; give MUSAN's root, with speech/, music/ and noise/ in it"
        )
    return found


def _by_split(files: list[Path], seed: int) -> dict[str, list[Path]]:
    """A third of the files, shuffled by the seed, to each split."""
    order = hashed_generator("noise split", seed).permutation(len(files))
    return {s: [files[i] for i in order[n :: len(SPLITS)]] for n, s in enumerate(SPLITS)}
