"""Write the synthetic corpus in LRS3's layout, in parallel and reproducibly.

    OUT/corpus.json                               parameters
    OUT/trainval/spk0000/00001.{mp4,wav,txt}      one utterance
    OUT/test/spk0004/...                          speakers never seen in trainval
    OUT/musan/{speech,music,noise}/*.wav          noise tree

Every file is written under a temporary name and then renamed, the transcript last. Thus a run can
be killed at any time, and continues when it is started again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from avhubert_ext.data.audio import SAMPLE_RATE, SAMPLES_PER_FRAME, write_wav
from avhubert_ext.data.files import whole_file, write_text
from avhubert_ext.data.video import FPS, write_video
from avhubert_ext.errors import InputError
from avhubert_ext.progress import Progress
from avhubert_ext.synth import noise
from avhubert_ext.synth.grammar import DOMAINS, Sentence
from avhubert_ext.synth.mouth import render
from avhubert_ext.synth.speakers import Speaker, make_speaker, seeded
from avhubert_ext.synth.speech import Speech, speak
from avhubert_ext.synth.visemes import mouth_trajectory
from avhubert_ext.workers import WORKER_DIED, in_workers

SILENCE = (0.10, 0.20)  # shortest and longest silence before and after the speech, in seconds
TEST_EVERY = 5  # speakers 4, 9, 14, ... are test speakers
VERSION = 1  # of the recipe; other versions make other files
SCORE = "9.9"  # of every word; in LRS3, the confidence of the alignment


@dataclass(frozen=True, eq=False)
class SpokenUtterance:
    """One utterance before it is written. Words are (word, start, end) in seconds."""

    samples: np.ndarray  # int16 [T * SAMPLES_PER_FRAME]
    frames: np.ndarray  # uint8 [T, 96, 96]
    words: tuple[tuple[str, float, float], ...]


def synthesize(
    out: Path | str,
    speakers: int = 10,
    utterances: int = 20,
    seed: int = 1,
    domain: str = "commands",
    workers: int | None = None,
) -> None:
    """Write a corpus of `speakers` x `utterances`. Existing files are kept.

    The same arguments give the same files, regardless of the number of workers.

    Args:
        out: The folder of the corpus.
        speakers: The number of speakers, at least 2.
        utterances: The number of utterances per speaker.
        seed: Seed of the corpus.
        domain: A key of DOMAINS.
        workers: The number of processes; None uses one per core.

    Raises:
        InputError: If an argument is invalid, the folder contains another corpus, or it cannot be
            written to.
    """
    out = Path(out)
    workers = (os.cpu_count() or 1) if workers is None else workers
    _check_arguments(speakers, utterances, seed, domain, workers)
    parameters = {
        "version": VERSION,
        "speakers": speakers,
        "utterances": utterances,
        "seed": seed,
        "domain": domain,
    }
    try:
        _claim_folder(out, parameters)
        for unfinished in out.rglob("*.part"):  # of a run that was killed
            unfinished.unlink()
        jobs = _missing_jobs(out, speakers, utterances, seed, domain)
        _run(jobs, workers)
    except OSError as error:
        raise InputError(
            f"{error.filename or out}: cannot write ({error.strerror or error}); "
            "choose another --out folder or make this one writable"
        ) from error


def held_out_speakers(speakers: int) -> frozenset[int]:
    """Return the numbers of the test speakers: every fifth, at least one."""
    return frozenset(range(TEST_EVERY - 1, speakers, TEST_EVERY)) or frozenset({speakers - 1})


def make_utterance(
    speaker: Speaker, sentence: Sentence, rng: np.random.Generator
) -> SpokenUtterance:
    """Synthesize a sentence. `rng` draws silences, head motion, and sensor noise."""
    speech = speak(sentence.spoken, speaker.voice)
    lead, tail = rng.uniform(*SILENCE, 2)
    n_frames = round((lead + len(speech.samples) / SAMPLE_RATE + tail) * FPS)
    first = int(lead * SAMPLE_RATE)
    samples = np.zeros(n_frames * SAMPLES_PER_FRAME, np.int16)
    samples[first : first + len(speech.samples)] = speech.samples
    phonemes = _later(speech.phonemes, lead)
    frames = render(mouth_trajectory(phonemes, n_frames, FPS), speaker.face, rng)
    return SpokenUtterance(samples, frames, _later(_as_written(speech, sentence), lead))


def transcript(words: Sequence[tuple[str, float, float]]) -> str:
    """Return a transcript in LRS3's format for (word, start, end) in seconds."""
    lines = [f"Text:  {' '.join(word for word, _, _ in words)}", "Conf:  4", ""]
    lines.append("WORD START END ASDSCORE")
    lines += [f"{word} {start:.2f} {end:.2f} {SCORE}" for word, start, end in words]
    return "\n".join(lines) + "\n"


def _later(
    spans: Sequence[tuple[str, float, float]], seconds: float
) -> tuple[tuple[str, float, float], ...]:
    return tuple((name, start + seconds, end + seconds) for name, start, end in spans)


def _as_written(speech: Speech, sentence: Sentence) -> tuple[tuple[str, float, float], ...]:
    """Return word times with the words of the transcript instead of their spoken spelling."""
    return tuple(
        (word, start, end)
        for word, (_, start, end) in zip(sentence.words, speech.words, strict=True)
    )


def _check_arguments(speakers: int, utterances: int, seed: int, domain: str, workers: int) -> None:
    if speakers < 2:
        raise InputError(f"--speakers {speakers}: needs at least 2, one to train and one to test")
    for option, value, least in (
        ("--utterances", utterances, 1),
        ("--seed", seed, 0),
        ("--workers", workers, 1),
    ):
        if value < least:
            raise InputError(f"{option} {value}: must be at least {least}")
    if domain not in DOMAINS:
        raise InputError(f"--domain {domain}: unknown; choose one of {', '.join(DOMAINS)}")


def _claim_folder(out: Path, parameters: dict[str, int | str]) -> None:
    """Record the parameters in a new folder; reject one that contains another corpus."""
    record = out / "corpus.json"
    out.mkdir(parents=True, exist_ok=True)
    if not record.exists():
        taken = [name for name in ("trainval", "test", "musan") if (out / name).exists()]
        if taken:
            raise InputError(
                f"{out}: contains {', '.join(taken)} of another corpus (no corpus.json); "
                "choose another --out folder"
            )
        text = json.dumps(parameters, indent=2) + "\n"
        write_text(record, text)
        return
    try:
        found = json.loads(record.read_text())
    except ValueError as error:
        raise InputError(
            f"{record}: is not JSON ({error}); delete the folder or choose another --out"
        ) from error
    if found != parameters:
        raise InputError(
            f"{out}: contains a corpus made with {_show(found)}, not {_show(parameters)}; "
            "choose another --out folder or delete this one"
        )


def _show(parameters: object) -> str:
    if not isinstance(parameters, dict):
        return repr(parameters)
    return " ".join(f"{name}={value}" for name, value in parameters.items())


def _missing_jobs(
    out: Path, speakers: int, utterances: int, seed: int, domain: str
) -> list[Callable[[], None]]:
    """Return the remaining work: utterances with missing or empty files, then noise files."""
    tests = held_out_speakers(speakers)
    jobs: list[Callable[[], None]] = []
    for index in range(speakers):
        speaker = make_speaker(seed, index)
        folder = out / ("test" if index in tests else "trainval") / speaker.name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1, utterances + 1):
            stem = folder / f"{number:05d}"
            if not all(_is_filled(stem.with_suffix(s)) for s in (".mp4", ".wav", ".txt")):
                jobs.append(partial(_write_utterance, stem, speaker, seed, number, domain))
    for kind, count in noise.COUNTS.items():
        folder = out / "musan" / kind
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            path = folder / f"{kind}-{index:04d}.wav"
            if not _is_filled(path):
                jobs.append(partial(_write_noise, path, kind, seed, index, noise.SECONDS))
    return jobs


def _is_filled(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _write_utterance(stem: Path, speaker: Speaker, seed: int, number: int, domain: str) -> None:
    sentence = DOMAINS[domain](seeded(seed, "sentence", speaker.name, number))
    rng = seeded(seed, "utterance", speaker.name, number)
    utterance = make_utterance(speaker, sentence, rng)
    text = transcript(utterance.words)
    with whole_file(stem.with_suffix(".mp4")) as temporary:
        write_video(temporary, utterance.frames, FPS)
    write_wav(stem.with_suffix(".wav"), utterance.samples)
    write_text(stem.with_suffix(".txt"), text)


def _write_noise(
    path: Path, kind: str, seed: int, index: int, seconds: tuple[float, float]
) -> None:
    write_wav(path, noise.make_noise(kind, seed, index, seconds))


def _run(jobs: Sequence[Callable[[], None]], workers: int) -> None:
    """Do the jobs, in this process or in several, under a progress bar."""
    if not jobs:
        return
    workers = min(workers, len(jobs))
    with Progress(total=len(jobs), unit="file", desc="synth") as bar:
        if workers == 1:
            for job in jobs:
                job()
                bar.update()
            return
        for _, done in in_workers(_do, jobs, workers):
            if not done:
                raise InputError(WORKER_DIED)
            bar.update()


def _do(job: Callable[[], None]) -> bool:
    job()
    return True
