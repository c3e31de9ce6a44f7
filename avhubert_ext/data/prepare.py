"""An LRS3-layout folder in, AV-HuBERT's manifest folder out.

In: `trainval/SPEAKER/CLIP.mp4` with `CLIP.txt` (first line `Text:  WORDS`), the same under `test/`;
`CLIP.wav` beside the video is used if it is there, else the audio track is extracted.
Out: `{train,valid,test}.{tsv,wrd}`, `spm_unigramN.model` (or bpe), `dict.wrd.txt`.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from avhubert_ext.data.audio import SAMPLE_RATE, SAMPLES_PER_FRAME, load_audio, write_wav
from avhubert_ext.data.files import make_folder, write_text
from avhubert_ext.data.manifest import Utterance, write_manifest
from avhubert_ext.data.text import SubwordConfig, make_subwords
from avhubert_ext.data.video import load_video
from avhubert_ext.errors import InputError
from avhubert_ext.mouth.media import read_audio
from avhubert_ext.workers import WORKER_DIED, follow_parent

MOUTH_REGION = (96, 96)  # pixels
MAX_DRIFT = 10  # frames by which audio and video may differ in length
PROGRESS = "utterances.jsonl"  # one line an utterance already read, so that a rerun goes on


@dataclass(frozen=True)
class Clip:
    """An utterance of the corpus with its transcript, as strings that fit into JSON."""

    id: str
    video: str
    audio: str
    frames: int
    samples: int
    text: str
    fingerprint: str


def prepare(
    corpus: Path,
    out: Path,
    subwords: SubwordConfig,
    valid_fraction: float = 0.05,
    workers: int = 1,
) -> dict[str, int]:
    """Write the manifest folder; returns the number of utterances of each split.

    Validation speakers are held out of `trainval`: whole speakers, chosen by a hash of the name.
    """
    if workers < 1:
        raise InputError(f"--workers {workers}: must be at least 1")
    found = sorted(corpus.glob("trainval/*/*.mp4")) + sorted(corpus.glob("test/*/*.mp4"))
    if not found:
        raise InputError(
            f"{corpus}: no trainval/SPEAKER/CLIP.mp4 and no test/SPEAKER/CLIP.mp4 in it; give an "
            "LRS3-layout folder, or make one with `avhubert-ext synth`"
        )
    make_folder(out)
    clips = _read_clips(corpus, found, out, workers)
    splits = _split(clips, valid_fraction)
    for name, members in splits.items():
        if not members:
            raise InputError(f"{corpus}: no utterance for {name}; it needs 2 trainval speakers")
        write_text(out / f"{name}.wrd", "".join(f"{c.text}\n" for c in members))
        write_manifest(out / f"{name}.tsv", [_utterance(c) for c in members])
    make_subwords([c.text for c in splits["train"]], subwords, out)
    return {name: len(members) for name, members in splits.items()}


def read_transcript(path: Path) -> str:
    """The words after `Text:` in an LRS3 transcript, lower case."""
    if not path.is_file():
        raise InputError(f"{path} not found: every clip needs a transcript, `Text:  WORDS`")
    lines = read_lines(path)
    first = lines[0] if lines else ""
    label, _, words = first.partition(":")
    if label.strip() != "Text" or not words.strip():
        raise InputError(f"{path}: the transcript is empty; the first line must be `Text:  WORDS`")
    return " ".join(words.lower().split())


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; InputError if it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path} not found: mend the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None


def _utterance(c: Clip) -> Utterance:
    return Utterance(c.id, Path(c.video), Path(c.audio), c.frames, c.samples)


def _read_clips(corpus: Path, videos: list[Path], out: Path, workers: int) -> list[Clip]:
    from tqdm import tqdm

    jobs = {str(v.relative_to(corpus).with_suffix("")): v for v in videos}
    progress = out / PROGRESS
    known = {
        c.id: c
        for c in _read_progress(progress)
        if c.id in jobs and c.fingerprint == fingerprint(jobs[c.id])
    }
    # Written anew: without lines that are torn, or about files that have changed since.
    write_text(progress, "".join(map(_as_line, known.values())))
    todo = [(clip_id, video, out) for clip_id, video in jobs.items() if clip_id not in known]
    context = multiprocessing.get_context("spawn")
    with (
        progress.open("a", encoding="utf-8", buffering=1) as log,
        ProcessPoolExecutor(workers, context, initializer=follow_parent) as pool,
    ):
        chunk = max(1, min(16, len(todo) // workers))
        bar = tqdm(total=len(jobs), initial=len(known), desc="prepare", unit="clip")
        try:
            for clip in pool.map(_read_clip, todo, chunksize=chunk):
                known[clip.id] = clip
                log.write(_as_line(clip))
                bar.update()
        except BrokenProcessPool:
            raise InputError(WORKER_DIED) from None
        finally:
            pool.shutdown(cancel_futures=True)
            bar.close()
    return [known[clip_id] for clip_id in jobs]


def fingerprint(video: Path) -> str:
    """Path, size and modification time of a clip's files: another value, another clip."""
    files = [video, video.with_suffix(".txt"), video.with_suffix(".wav")]
    status = [f.stat() for f in files if f.is_file()]
    return f"{video.absolute()} " + " ".join(f"{s.st_size}:{s.st_mtime_ns}" for s in status)


def _as_line(clip: Clip) -> str:
    return json.dumps(asdict(clip)) + "\n"


def _read_progress(path: Path) -> Iterable[Clip]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield Clip(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue  # a line cut short by a kill: read that clip again


def _read_clip(job: tuple[str, Path, Path]) -> Clip:
    clip_id, video, out = job
    before = fingerprint(video)
    text = read_transcript(video.with_suffix(".txt"))
    audio = video.with_suffix(".wav")
    if not audio.is_file():
        audio = out / "audio" / f"{clip_id}.wav"
        extract_audio(video, audio)
    # Decoded, not read from the header: a manifest must not name a video that does not play.
    pixels = load_video(video)
    frames, samples = len(pixels), len(load_audio(audio))
    check_clip(video, pixels, samples)
    paths = (str(video.absolute()), str(audio.absolute()))
    return Clip(clip_id, *paths, frames, samples, text, before)


def check_clip(video: Path, pixels: np.ndarray, samples: int) -> None:
    """Refuse a clip that is no mouth region at 25 fps in step with its audio.

    pixels: [T, H, W]; samples: of the audio at 16 kHz.
    """
    if pixels.shape[1:] != MOUTH_REGION:
        height, width = pixels.shape[1:]
        raise InputError(
            f"{video}: frames are {width}x{height}, expected the mouth region in 96x96; run "
            "`avhubert-ext prepare-video` first"
        )
    drift = abs(samples / SAMPLES_PER_FRAME - len(pixels))
    if drift > MAX_DRIFT:
        raise InputError(
            f"{video}: {len(pixels)} frames but {samples / SAMPLE_RATE:.2f} s of audio; expected "
            "25 frames a second: convert the video, or cut both to the same length"
        )


def extract_audio(video: Path, wav: Path) -> None:
    """The audio track of a video as a 16 kHz mono wav file."""
    write_wav(wav, read_audio(video))


def _split(clips: list[Clip], valid_fraction: float) -> dict[str, list[Clip]]:
    training = [c for c in clips if c.id.startswith("trainval/")]
    speakers = sorted({_speaker(c) for c in training}, key=_hash)
    held_out = set(speakers[: max(1, round(valid_fraction * len(speakers)))])
    return {
        "train": [c for c in training if _speaker(c) not in held_out],
        "valid": [c for c in training if _speaker(c) in held_out],
        "test": [c for c in clips if c.id.startswith("test/")],
    }


def _speaker(clip: Clip) -> str:
    return clip.id.split("/")[1]


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
