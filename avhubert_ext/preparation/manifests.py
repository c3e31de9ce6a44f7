"""Make AV-HuBERT's manifest folder from a corpus in LRS3's layout.

Input: `trainval/SPEAKER/CLIP.mp4` with `CLIP.txt` (first line `Text:  WORDS`), the same under
`test/`, and under `valid/` if the corpus has its own validation set. `CLIP.wav` beside the video is
used if it exists; otherwise the audio track is extracted.
Output: `{train,valid,test}.{tsv,wrd}`, `spm_unigramN.model` (or bpe), `dict.wrd.txt`, and
`text.json` with the settings of the text normalization.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from avhubert_ext.data.audio import load_audio, write_wav
from avhubert_ext.data.corrupt import TOLERATED
from avhubert_ext.data.files import make_folder, one_at_a_time, write_text
from avhubert_ext.data.manifest import Utterance, check_name, read_lines, write_manifest
from avhubert_ext.data.media import read_audio
from avhubert_ext.data.normalization import (
    DEFAULT,
    TextChanges,
    TextConfig,
    changes,
    normalize,
    write_text_config,
)
from avhubert_ext.data.video import check_in_step, load_video
from avhubert_ext.errors import InputError
from avhubert_ext.preparation.subwords import SubwordConfig, make_subwords
from avhubert_ext.workers import in_workers

MOUTH_REGION = (96, 96)  # height and width in pixels
PROGRESS = "utterances.jsonl"  # one line per utterance already read, so that a rerun continues
FOLDERS = ("trainval", "valid", "test")


@dataclass(frozen=True)
class ClipRecord:
    """An utterance of the corpus as a JSON record.

    Attributes:
        id: The name of the utterance.
        video: Absolute path of the video.
        audio: Absolute path of the audio.
        frames: Video frames at 25 frames/s.
        samples: Audio samples at 16 kHz.
        transcript: The transcript, not normalized.
        fingerprint: See `fingerprint`.
    """

    id: str
    video: str
    audio: str
    frames: int
    samples: int
    transcript: str
    fingerprint: str


@dataclass(frozen=True)
class Prepared:
    """The result of `prepare`.

    Attributes:
        counts: The number of utterances in each split.
        text: What text normalization changed.
        failures: Why each omitted clip cannot be used.
        official: Whether the validation set is that of the corpus.
    """

    counts: dict[str, int]
    text: TextChanges
    failures: list[str]
    official: bool


def prepare(
    corpus: Path,
    out: Path,
    subwords: SubwordConfig,
    valid_fraction: float = 0.05,
    workers: int = 1,
    text: TextConfig = DEFAULT,
    allow_unreadable: bool = False,
) -> Prepared:
    """Write the manifest folder.

    The validation set is `valid/` of the corpus. Without it, whole speakers of `trainval` are held
    out, chosen by a hash of their names. Unusable clips are reported on stderr and omitted.

    Args:
        corpus: The folder of the corpus.
        out: The manifest folder.
        subwords: How text is split into subwords.
        valid_fraction: The fraction of speakers to hold out.
        workers: The number of worker processes.
        text: The settings of the text normalization.
        allow_unreadable: Whether to accept more than 1% of unusable clips.

    Raises:
        InputError: If the corpus has no clips, a split is empty, or more than 1% of the clips are
            unusable. In the last case no manifest is written.
    """
    if workers < 1:
        raise InputError(f"--workers {workers}: must be at least 1")
    found = [v for folder in FOLDERS for v in sorted(corpus.glob(f"{folder}/*/*.mp4"))]
    if not found:
        raise InputError(
            f"{corpus}: neither trainval/SPEAKER/CLIP.mp4 nor test/SPEAKER/CLIP.mp4 found; give an "
            "LRS3-layout folder, or make one with `avhubert-ext data synth`"
        )
    make_folder(out)
    with one_at_a_time(out / PROGRESS):
        clips, failures = _read_clips(corpus, found, out, workers, text)
        if not allow_unreadable:
            check_failures(failures, len(found))
        official = any(video.parent.parent.name == "valid" for video in found)
        splits = _split(clips, None if official else valid_fraction)
        for name, members in splits.items():
            if not members:
                raise InputError(
                    f"{corpus}: no utterance for {name}; a corpus needs test/, and valid/ or 2 "
                    "trainval speakers"
                )
            labels = [normalize(c.transcript, text) for c in members]
            write_text(out / f"{name}.wrd", "".join(f"{label}\n" for label in labels))
            write_manifest(out / f"{name}.tsv", [_utterance(c) for c in members])
        write_text_config(out, text)
        make_subwords([normalize(c.transcript, text) for c in splits["train"]], subwords, out)
    return Prepared(
        {name: len(members) for name, members in splits.items()},
        changes([c.transcript for c in clips], text),
        failures,
        official,
    )


def check_failures(failures: list[str], total: int) -> None:
    """Raise an InputError if more than 1% of `total` inputs failed."""
    if len(failures) > TOLERATED * total:
        raise InputError(
            f"{len(failures)} of {total} inputs failed, more than {TOLERATED:.0%}: no list was "
            f"written; the first is {failures[0]}; fix them and run the same command again, or "
            "leave them out with --allow-unreadable"
        )


def read_transcript(path: Path) -> str:
    """Read the words after `Text:` in an LRS3 transcript, without normalization.

    Raises:
        InputError: If the file is missing, malformed, or has no words.
    """
    lines = read_lines(path, "every clip needs a transcript, `Text:  WORDS`")
    first = lines[0] if lines else ""
    label, _, words = first.partition(":")
    if label.strip() not in ("Text", ""):
        raise InputError(f"{path}: the first line must be `Text:  WORDS`, found {first[:80]!r}")
    if not words.strip():
        raise InputError(f"{path}: the transcript is empty; the first line must be `Text:  WORDS`")
    return " ".join(words.split())


def _utterance(c: ClipRecord) -> Utterance:
    return Utterance(c.id, Path(c.video), Path(c.audio), c.frames, c.samples)


def _read_clips(
    corpus: Path, videos: list[Path], out: Path, workers: int, text: TextConfig
) -> tuple[list[ClipRecord], list[str]]:
    from avhubert_ext.progress import Progress

    jobs = {str(v.relative_to(corpus).with_suffix("")): v for v in videos}
    progress = out / PROGRESS
    known = {
        c.id: c
        for c in _read_progress(progress)
        if c.id in jobs and c.fingerprint == fingerprint(jobs[c.id]) and Path(c.audio).is_file()
    }
    # Rewritten without truncated lines, and without files that have changed since.
    write_text(progress, "".join(map(_as_line, known.values())))
    failures: dict[str, str] = {}

    def failed(clip_id: str, reason: str) -> None:
        failures[clip_id] = reason
        Progress.write(f"failed: {reason}", file=sys.stderr)

    todo = [(clip_id, video, out) for clip_id, video in jobs.items() if clip_id not in known]
    with (
        progress.open("a", encoding="utf-8", buffering=1) as log,
        Progress(total=len(jobs), initial=len(known), desc="prepare", unit="clip") as bar,
    ):
        for (clip_id, video, _), read in in_workers(_read_clip, todo, workers):
            if isinstance(read, ClipRecord):
                known[clip_id] = read
                log.write(_as_line(read))
            else:
                failed(clip_id, read or f"{video}: its worker process died; leave the clip out")
            bar.update()
    for clip_id, clip in known.items():
        if not normalize(clip.transcript, text):
            path = jobs[clip_id].with_suffix(".txt")
            failed(clip_id, f"{path}: no words in {clip.transcript[:80]!r}; leave the clip out")
    # In the order of the clips, regardless of the order in which they were read.
    write_text(progress, "".join(_as_line(known[clip_id]) for clip_id in jobs if clip_id in known))
    good = [known[clip_id] for clip_id in jobs if clip_id in known and clip_id not in failures]
    return good, [failures[clip_id] for clip_id in jobs if clip_id in failures]


def fingerprint(video: Path) -> str:
    """Return path, size, and modification time of a clip's files, to detect changes."""
    files = [video, video.with_suffix(".txt"), video.with_suffix(".wav")]
    status = [f.stat() for f in files if f.is_file()]
    return f"{video.absolute()} " + " ".join(f"{s.st_size}:{s.st_mtime_ns}" for s in status)


def _as_line(clip: ClipRecord) -> str:
    return json.dumps(asdict(clip)) + "\n"


def _read_progress(path: Path) -> Iterable[ClipRecord]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            clip = ClipRecord(**json.loads(line))
        except (ValueError, TypeError, RecursionError):
            continue  # truncated by a kill, or of another version: read that clip again
        counts = (clip.frames, clip.samples)
        texts = (clip.id, clip.video, clip.audio, clip.transcript, clip.fingerprint)
        if all(isinstance(n, int) for n in counts) and all(isinstance(t, str) for t in texts):
            yield clip


def _read_clip(job: tuple[str, Path, Path]) -> ClipRecord | str:
    """Read a clip; returns its record, or why it cannot be used."""
    clip_id, video, out = job
    try:
        check_name(video)
        before = fingerprint(video)
        transcript = read_transcript(video.with_suffix(".txt"))
        audio = video.with_suffix(".wav")
        if not audio.is_file():
            audio = out / "audio" / f"{clip_id}.wav"
            extract_audio(video, audio)
        # Decoded completely: a manifest must not contain damaged videos.
        pixels = load_video(video)
        frames, samples = len(pixels), len(load_audio(audio))
        check_mouth_clip(video, pixels, samples)
    except InputError as error:
        return str(error)
    paths = (str(video.absolute()), str(audio.absolute()))
    return ClipRecord(clip_id, *paths, frames, samples, transcript, before)


def check_mouth_clip(video: Path, pixels: np.ndarray, samples: int) -> None:
    """Raise an InputError unless a clip is a mouth region as long as its audio.

    Args:
        video: The video, for the error message.
        pixels: [T, H, W].
        samples: Audio samples at 16 kHz.
    """
    if pixels.shape[1:] != MOUTH_REGION:
        height, width = pixels.shape[1:]
        raise InputError(
            f"{video}: frames are {width}x{height}, expected the mouth region in 96x96; run "
            "`avhubert-ext data video` first"
        )
    check_in_step(video, len(pixels), samples)


def extract_audio(video: Path, wav: Path) -> None:
    """Extract the audio track of a video to a 16 kHz mono wav file."""
    write_wav(wav, read_audio(video))


def _split(clips: list[ClipRecord], valid_fraction: float | None) -> dict[str, list[ClipRecord]]:
    """Assign clips to splits; None as the fraction holds out no speaker of `trainval`."""
    training = _below("trainval", clips)
    speakers = sorted({_speaker(c) for c in training}, key=_hash)
    held = 0 if valid_fraction is None else max(1, round(valid_fraction * len(speakers)))
    held_out = set(speakers[:held])
    return {
        "train": [c for c in training if _speaker(c) not in held_out],
        "valid": [c for c in training if _speaker(c) in held_out] + _below("valid", clips),
        "test": _below("test", clips),
    }


def _below(folder: str, clips: list[ClipRecord]) -> list[ClipRecord]:
    return [c for c in clips if c.id.startswith(f"{folder}/")]


def _speaker(clip: ClipRecord) -> str:
    return clip.id.split("/")[1]


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
