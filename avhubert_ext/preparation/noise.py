"""Make noise manifests from MUSAN and a corpus: babble, music, noise, and a second talker.

Splits do not share files. Babble is a mix of up to 30 talkers, each in one split only (paper A,
section 3.1). MUSAN does not specify which of its files share a talker, so every file counts as one.
The second talker is an utterance of another speaker in the same split.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from avhubert_ext.data.audio import SAMPLE_RATE, audio_length, load_audio, write_wav
from avhubert_ext.data.files import make_folder, write_text
from avhubert_ext.data.manifest import check_name, read_manifest
from avhubert_ext.data.noise import hashed_generator, speaker_of
from avhubert_ext.errors import InputError
from avhubert_ext.preparation.corpora import SPLITS
from avhubert_ext.preparation.manifests import check_failures

BABBLE_TALKERS = 30
BABBLE_SECONDS = 20
BABBLE_FILES = 10  # per split, each with its own talkers and offsets
TALKERS, MADE_OF = "talkers.tsv", "made_of.txt"


@dataclass
class NoiseFiles:
    """Counts noise files, and collects those that cannot be used.

    Attributes:
        total: The number of files.
        failures: Why each unusable file cannot be used.
    """

    total: int = 0
    failures: dict[Path, str] = field(default_factory=dict)

    def failed(self, path: Path, error: InputError) -> None:
        """Record and report a file that cannot be used."""
        if path not in self.failures:
            self.failures[path] = str(error)
            print(f"failed: {error}", file=sys.stderr)

    def good(self, paths: list[Path]) -> list[Path]:
        """Return the files with the header of a 16 kHz mono file, and report the others."""
        for path in paths:
            try:
                check_name(path)
                audio_length(path)
            except InputError as error:
                self.failed(path, error)
        self.total += len(paths)
        return [path for path in paths if path not in self.failures]


def prepare_noise(
    musan: Path,
    out: Path,
    seed: int = 1,
    manifests: Path | None = None,
    allow_unreadable: bool = False,
) -> NoiseFiles:
    """Write `OUT/{babble,music,noise}/{train,valid,test}.tsv`, one absolute wav path per line.

    `OUT/babble/SPLIT/talkers.tsv` lists each babble file and the files of its talkers. Existing
    babble from the same files is kept. Unusable files are reported on stderr and omitted.

    Args:
        musan: The root of MUSAN.
        out: The folder to write to.
        seed: Seed of the splits and of the babble.
        manifests: A manifest folder; with it, `OUT/talker` is written, too (a second talker).
        allow_unreadable: Whether to accept more than 1% of unusable files.

    Raises:
        InputError: If files are missing, or more than 1% of them are unusable. Then no list is
            written.
    """
    files = NoiseFiles()
    talkers = _by_split(_files(musan, "speech"), seed)
    kinds = {kind: _by_split(_files(musan, kind), seed) for kind in ("music", "noise")}
    if manifests is not None:
        kinds["talker"] = {s: _second_talkers(manifests / f"{s}.tsv") for s in SPLITS}
    kinds = {k: {s: files.good(found) for s, found in ks.items()} for k, ks in kinds.items()}
    talkers = {s: files.good(found) for s, found in talkers.items()}
    if not allow_unreadable:
        check_failures([*files.failures.values()], files.total)
    for split, found in talkers.items():
        if not found:
            raise InputError(
                f"{musan / 'speech'}: no usable file for {split}; see the errors above"
            )
    kinds["babble"] = {s: _babble(talkers[s], seed, out / "babble" / s, files) for s in SPLITS}
    if not allow_unreadable:  # errors that the header does not show
        check_failures([*files.failures.values()], files.total)
    for kind, splits in kinds.items():
        for split, found in splits.items():
            if not found:
                raise InputError(f"{kind}: no usable file for {split}; fix the errors above")
            lines = "".join(f"{f.absolute()}\n" for f in found)
            write_text(out / kind / f"{split}.tsv", lines)
    return files


def _babble(talkers: list[Path], seed: int, folder: Path, files: NoiseFiles) -> list[Path]:
    """Write the babble of a split into `folder` unless it exists; returns its files."""
    babble = [folder / f"{number:02d}.wav" for number in range(BABBLE_FILES)]
    made_of, record = _fingerprint(seed, talkers), folder / MADE_OF
    make_folder(folder)
    whole = all(p.is_file() and p.stat().st_size for p in [*babble, folder / TALKERS, record])
    if whole and record.read_bytes() == made_of.encode():
        return babble
    record.unlink(missing_ok=True)
    failed, lines = len(files.failures), []
    for number, path in enumerate(babble):
        rng = hashed_generator("babble", seed, folder.name, number)
        order = rng.permutation(len(talkers))[:BABBLE_TALKERS]
        samples, mixed = mix_babble([talkers[index] for index in order], rng, files)
        write_wav(path, samples)
        lines.append("\t".join(str(p.absolute()) for p in [path, *mixed]))
    write_text(folder / TALKERS, "\n".join(lines) + "\n")
    if len(files.failures) == failed:
        write_text(record, made_of)
    return babble


def _fingerprint(seed: int, talkers: list[Path]) -> str:
    """Return a hash of the seed and the source files of a split's babble, to detect changes."""
    status = ((path.absolute(), path.stat()) for path in talkers)
    stamps = "".join(f"{path} {s.st_size} {s.st_mtime_ns}\n" for path, s in status)
    return hashlib.sha256(f"{seed} {stamps}".encode()).hexdigest()


def _second_talkers(manifest: Path) -> list[Path]:
    """Return the utterances of a split; it needs two speakers, as none is mixed with itself."""
    utterances = read_manifest(manifest)
    speakers = {speaker_of(u.id) for u in utterances}
    if len(speakers) == 1 and speakers != {""}:
        raise InputError(
            f"{manifest}: all utterances are by {speakers.pop()}; a second talker needs another "
            "speaker: prepare the corpus with a larger --valid-fraction, or more speakers"
        )
    return [u.audio for u in utterances]


def mix_babble(
    talkers: list[Path], rng: np.random.Generator, files: NoiseFiles
) -> tuple[np.ndarray, list[Path]]:
    """Mix talkers at equal level, each from a random offset.

    Args:
        talkers: One file per talker. Unreadable files are left out.
        rng: Draws the offsets.
        files: Collects unreadable files.

    Returns:
        The babble, int16 [N] of 20 s, and the files in it.

    Raises:
        InputError: If there is nothing to mix.
    """
    samples = BABBLE_SECONDS * SAMPLE_RATE
    total = np.zeros(samples)
    mixed = []
    for path in talkers:
        try:
            speech = load_audio(path).astype(np.float64)
        except InputError as error:
            files.failed(path, error)
            continue
        offset = rng.integers(len(speech))
        speech = np.resize(np.roll(speech, -int(offset)), samples)
        total += speech / max(1.0, np.sqrt(np.mean(speech**2)))
        mixed.append(path)
    peak = np.abs(total).max()
    if not peak:
        raise InputError(
            f"{talkers[0].parent}: no audible and readable file to mix; restore the files"
        )
    return np.round(total * (0.5 * np.iinfo(np.int16).max / peak)).astype(np.int16), mixed


def _files(musan: Path, kind: str) -> list[Path]:
    found = sorted((musan / kind).rglob("*.wav"))
    if len(found) < len(SPLITS):
        raise InputError(
            f"{musan / kind}: {len(found)} wav files, expected at least {len(SPLITS)}, one per "
            "split; give the root of MUSAN, which contains speech/, music/ and noise/"
        )
    return found


def _by_split(files: list[Path], seed: int) -> dict[str, list[Path]]:
    """Assign a third of the shuffled files to each split."""
    order = hashed_generator("noise split", seed).permutation(len(files))
    return {s: [files[i] for i in order[n :: len(SPLITS)]] for n, s in enumerate(SPLITS)}
