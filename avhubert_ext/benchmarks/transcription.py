"""How accurate the times of words are, and what splitting long clips costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from avhubert_ext.benchmarks.timing import machine
from avhubert_ext.data.audio import load_audio
from avhubert_ext.data.video import FPS, load_video
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.wer import word_error_rate
from avhubert_ext.preparation.corpora import timed_words
from avhubert_ext.recognizers.base import Recognizer
from avhubert_ext.transcription.alignment import Word


@dataclass(frozen=True)
class Reference:
    """A clip, and its words with their true times.

    Attributes:
        audio: int16 [N] at 16 kHz.
        video: uint8 [T, 96, 96] at 25 frames per second.
        words: (word, start, end) of each, in seconds.
    """

    audio: np.ndarray
    video: np.ndarray
    words: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class Accuracy:
    """The result of one modality and one kind of clip.

    Attributes:
        clips: `utterances`, or `speakers` where all utterances of a speaker form one clip.
        modality: the streams that were used.
        wer: in percent.
        words: number of reference words.
        timed: number of words that were recognized correctly.
        start_error: mean absolute error of their starts, in seconds.
        end_error: mean absolute error of their ends, in seconds.
    """

    clips: str
    modality: str
    wer: float
    words: int
    timed: int
    start_error: float
    end_error: float


def benchmark_transcription(
    recognizer: Recognizer, corpus: Path, longest: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Transcribe the utterances in `corpus/test`, one by one and all of a speaker as one long clip.

    Args:
        recognizer: the model.
        corpus: folder in the layout of LRS3, with word times in its transcripts and a WAV file next
            to each clip.
        longest: length in seconds of the longest segment that is recognized in one piece.
        progress: called with one line before each part of the work.

    Returns:
        The conditions, and under `results` the fields of an `Accuracy` for every modality and kind
        of clip.

    Raises:
        InputError: if there is no test set, or not a single word is recognized.
    """
    single = read_utterances(corpus)
    forms = {
        "utterances": [clip for clips in single for clip in clips],
        "speakers": [join(clips) for clips in single],
    }
    results = []
    for modality in recognizer.modalities:
        for name, clips in forms.items():
            progress(f"{modality}, {len(clips)} {name}")
            results.append(asdict(measure(recognizer, clips, name, modality, longest)))
    return {"longest": longest, "results": results, "machine": machine()}


def read_utterances(corpus: Path) -> list[list[Reference]]:
    """The utterances of each test speaker."""
    files = sorted(corpus.glob("test/*/*.mp4"))
    if not files:
        raise InputError(
            f"{corpus}: no test/SPEAKER/CLIP.mp4 in it; name a corpus like that of `data synth`"
        )
    return [
        [
            Reference(
                load_audio(file.with_suffix(".wav")),
                load_video(file),
                tuple(timed_words(file.with_suffix(".txt"))),
            )
            for file in group
        ]
        for _, group in groupby(files, lambda file: file.parent)
    ]


def join(clips: list[Reference]) -> Reference:
    """One clip of several, one after another."""
    starts = np.cumsum([0, *(len(clip.video) for clip in clips)]) / FPS
    later = [
        (word, float(start + from_), float(end + from_))
        for clip, from_ in zip(clips, starts[:-1], strict=True)
        for word, start, end in clip.words
    ]
    audio = np.concatenate([clip.audio for clip in clips])
    return Reference(audio, np.concatenate([clip.video for clip in clips]), tuple(later))


def measure(
    recognizer: Recognizer, clips: list[Reference], name: str, modality: str, longest: float
) -> Accuracy:
    """Transcribe clips and compare texts and times with the reference.

    Args:
        recognizer: the model.
        clips: what to transcribe.
        name: what kind of clips these are.
        modality: the streams to use.
        longest: see `benchmark_transcription`.

    Raises:
        InputError: if not a single word is recognized.
    """
    texts, errors = [], []
    for clip in clips:
        audio = None if modality == "video" else clip.audio
        video = None if modality == "audio" else clip.video
        found = recognizer.transcribe(audio=audio, video=video, longest=longest)
        texts.append((" ".join(word for word, _, _ in clip.words).lower(), found.text.lower()))
        errors += time_errors(clip.words, found.words)
    words = sum(len(clip.words) for clip in clips)
    if not errors:
        raise InputError(
            f"{modality}: none of {words} words is correct; use a model of this corpus"
        )
    start_error, end_error = np.mean(errors, axis=0)
    return Accuracy(
        name,
        modality,
        word_error_rate(texts),
        words,
        len(errors),
        float(start_error),
        float(end_error),
    )


def time_errors(
    spoken: tuple[tuple[str, float, float], ...], found: tuple[Word, ...]
) -> list[tuple[float, float]]:
    """Absolute errors of start and end of each correctly recognized word, in seconds."""
    pairs = SequenceMatcher(
        None, [word.lower() for word, _, _ in spoken], [w.text.lower() for w in found], False
    ).get_matching_blocks()
    return [
        (abs(found[j + k].start - spoken[i + k][1]), abs(found[j + k].end - spoken[i + k][2]))
        for i, j, length in pairs
        for k in range(length)
    ]


def text_table(report: dict[str, Any]) -> str:
    """The report for a terminal, one line per modality and kind of clip."""
    header = (
        f"{'modality':<10}{'clips':<12}{'WER %':>8}{'words':>8}{'correct':>9}"
        f"{'start ms':>10}{'end ms':>8}"
    )
    lines = [
        f"segments of at most {report['longest']:g} s; mean errors of starts and ends of the "
        "correct words:",
        "",
        header,
        "-" * len(header),
    ]
    for r in report["results"]:
        lines.append(
            f"{r['modality']:<10}{r['clips']:<12}{r['wer']:>8.2f}{r['words']:>8}{r['timed']:>9}"
            f"{1000 * r['start_error']:>10.0f}{1000 * r['end_error']:>8.0f}"
        )
    return "\n".join(lines)
