"""Layouts of raw corpora: where videos and transcripts are, and their names in LRS3's layout.

Each layout is a function from the folder of a corpus to its sources. Each transcript format is a
function from a file to excerpts. Files are read only when a source is processed, so that one bad
file among thousands is one failure.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from avhubert_ext.data.manifest import read_lines
from avhubert_ext.errors import InputError
from avhubert_ext.preparation.manifests import read_transcript

logger = logging.getLogger(__name__)

# Of files that may contain a video in a readable format (see `data.media`).
SUFFIXES = {
    *(".264", ".265", ".266", ".3g2", ".3gp", ".amv", ".asf", ".avc", ".avi", ".divx", ".drc"),
    *(".dv", ".f4v", ".flv", ".gxf", ".h261", ".h263", ".h264", ".h265", ".h266", ".hevc", ".ivf"),
    *(".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mk3d", ".mkv", ".mod", ".mov", ".mp4"),
    *(".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nsv", ".nut", ".nuv", ".obu", ".ogm"),
    *(".ogv", ".qt", ".rm", ".rmvb", ".tod", ".tp", ".trp", ".ts", ".vc1", ".vob", ".vvc", ".webm"),
    *(".wmv", ".wtv", ".y4m"),
}
TRANSCRIPT_SUFFIXES = {".align", ".txt"}
GRID_TEST = ("s1", "s2", "s20", "s22")  # LipNet's unseen speakers
GRID_SILENCES = ("sil", "sp")
SPLITS = ("train", "valid", "test")
_OF_CORPUS = "it belongs to the corpus; correct the path"
TEST_SHARE = 0.1  # share of the speakers of a plain folder
LONGEST_EXCERPT = 24.0  # seconds of a pretrain clip, as in Auto-AVSR


@dataclass(frozen=True)
class Source:
    """A video of a corpus.

    Attributes:
        video: The video file.
        key: Its path in the corpus, without the suffix.
        name: The name of its output. With a transcript, it follows LRS3's layout: `trainval/`,
            `valid/` or `test/`, speaker, clip.
        transcript: The transcript file, or None.
        form: The format of the transcript, a key of TRANSCRIPTS.
    """

    video: Path
    key: str
    name: str
    transcript: Path | None = None
    form: str = "lrs"


@dataclass(frozen=True)
class Excerpt:
    """A part of a video and its words.

    Attributes:
        text: The words; None without a transcript.
        start: Start in seconds.
        end: End in seconds; None is the end of the video.
        suffix: Distinguishes the names of the excerpts of one video.
    """

    text: str | None
    start: float = 0.0
    end: float | None = None
    suffix: str = ""


def plain_videos(inputs: Iterable[Path]) -> list[Source]:
    """Find videos without transcripts.

    Args:
        inputs: Video files, and folders with videos at any depth. Other files in a folder are
            counted in a warning.

    Raises:
        InputError: If an input is missing, or if there are no videos.
    """
    sources = []
    for given in inputs:
        if given.is_dir():
            sources += [Source(v, key, key) for v, key in _videos(given, "**/*")]
            _report_skipped(given, SUFFIXES)
        elif not given.is_file():
            raise InputError(f"{given}: not found; correct the path")
        else:
            sources.append(Source(given, given.stem, given.stem))
    if not sources:
        raise InputError(
            f"{', '.join(map(str, inputs))}: no video found; known suffixes are "
            f"{' '.join(sorted(SUFFIXES))}"
        )
    return sources


def lrs3(corpus: Path) -> list[Source]:
    """`{trainval,valid,test}/SPEAKER/CLIP.mp4` with `CLIP.txt`, and `pretrain/`, cut between words.

    `valid/` is optional.
    """
    return [
        Source(video, key, key, video.with_suffix(".txt"))
        for split in ("trainval", "valid", "test")
        for video, key in _videos(corpus, f"{split}/*/*")
    ] + _pretrain(corpus)


def lrs2(corpus: Path) -> list[Source]:
    """`main/ID/CLIP.mp4` with `CLIP.txt`, `train.txt`, `val.txt`, `test.txt`; and `pretrain/`.

    The validation set of the corpus is kept. Raises InputError if a clip is in two of the lists.
    """
    split_of: dict[str, str] = {}
    for listed, split in (("train", "trainval"), ("val", "valid"), ("test", "test")):
        path = corpus / f"{listed}.txt"
        for clip in (line.split()[0] for line in read_lines(path, _OF_CORPUS) if line.strip()):
            if split_of.setdefault(clip, split) != split:
                raise InputError(f"{path}: {clip} is also in another list; copy the lists again")
    found = {key.removeprefix("main/"): video for video, key in _videos(corpus, "main/*/*")}
    absent, unlisted = sorted(split_of.keys() - found), sorted(found.keys() - split_of)
    if found and absent:
        logger.warning(f"{corpus}: {len(absent)} clips in the lists are missing: {absent[0]!r} …")
    if unlisted:
        logger.warning(f"{corpus}: {len(unlisted)} clips skipped, not in a list: {unlisted[0]!r} …")
    return [
        Source(video, f"main/{clip}", f"{split_of[clip]}/{clip}", video.with_suffix(".txt"))
        for clip, video in found.items()
        if clip in split_of
    ] + _pretrain(corpus)


def grid(corpus: Path) -> list[Source]:
    """`CLIP.mpg` and `CLIP.align` at any depth below folders named s1 ... s34.

    The test speakers are s1, s2, s20, and s22. Clips of different speakers may share a name.
    """
    alignments = {(_grid_speaker(a), a.stem): a for a in sorted(corpus.rglob("*.align"))}
    sources = []
    for video, key in _videos(corpus, "**/*"):
        speaker = _grid_speaker(video)
        if speaker is None:
            logger.warning(f"{video}: skipped, not below the folder of a speaker, s1 to s34")
            continue
        split = "test" if speaker in GRID_TEST else "trainval"
        transcript = alignments.get((speaker, video.stem), video.with_suffix(".align"))
        sources.append(Source(video, key, f"{split}/{speaker}/{video.stem}", transcript, "grid"))
    return sources


def folder(corpus: Path) -> list[Source]:
    """`[SPEAKER/]CLIP.*` with `CLIP.txt`, plain text; a tenth of the speakers are for testing.

    Every video directly in the folder counts as a speaker. Raises InputError if there are fewer
    speakers than splits.
    """
    videos = [(video, key) for video, key in _videos(corpus, "**/*")]
    speakers = sorted({key.split("/")[0] for _, key in videos}, key=_hash)
    if 0 < len(speakers) < len(SPLITS):
        raise InputError(
            f"{corpus}: speakers: {len(speakers)}; {', '.join(SPLITS)} need at least one each. "
            "Every clip directly in the folder counts as a speaker"
        )
    test = set(speakers[: max(1, round(TEST_SHARE * len(speakers)))])
    sources = []
    for video, key in videos:
        speaker, *rest = key.split("/")
        split = "test" if speaker in test else "trainval"
        name = f"{split}/{speaker}/{'_'.join(rest) or speaker}"
        sources.append(Source(video, key, name, video.with_suffix(".txt"), "plain"))
    return sources


LAYOUTS: dict[str, Callable[[Path], list[Source]]] = {
    "lrs3": lrs3,
    "lrs2": lrs2,
    "grid": grid,
    "folder": folder,
}


def corpus_sources(layout: str, corpus: Path) -> list[Source]:
    """Find the videos of a corpus and their transcripts.

    Args:
        layout: A key of LAYOUTS.
        corpus: The folder of the corpus.

    Raises:
        InputError: If the folder is missing, or has another layout.
    """
    if not corpus.is_dir():
        raise InputError(f"{corpus}: not a folder; give the folder of the corpus")
    sources = LAYOUTS[layout](corpus)
    _report_skipped(corpus, SUFFIXES | TRANSCRIPT_SUFFIXES)
    if not sources:
        form = (LAYOUTS[layout].__doc__ or "").splitlines()[0]
        raise InputError(f"{corpus}: not in the layout of {layout}: {form}")
    return sources


def excerpts(source: Source) -> list[Excerpt]:
    """Read the transcript of a video; without one, the whole video is one excerpt without text.

    Raises:
        InputError: If the transcript is missing or malformed.
    """
    if source.transcript is None:
        return [Excerpt(None)]
    if not source.transcript.is_file():
        raise InputError(f"{source.video}: no transcript; expected {source.transcript}")
    return TRANSCRIPTS[source.form](source.transcript)


def _whole(path: Path) -> list[Excerpt]:
    return [Excerpt(read_transcript(path))]


def _grid_words(path: Path) -> list[Excerpt]:
    """Read lines `START END WORD`."""
    words = []
    for number, line in enumerate(read_lines(path), start=1):
        match line.split():
            case []:
                continue
            case [start, end, word] if _is_time(start) and _is_time(end):
                words.append(word)
            case _:
                raise InputError(_wrong_line(path, number, line, "START END WORD"))
    return [_spoken(path, [w for w in words if w not in GRID_SILENCES])]


def _plain_text(path: Path) -> list[Excerpt]:
    return [_spoken(path, " ".join(read_lines(path)).split())]


def timed_words(path: Path) -> list[tuple[str, float, float]]:
    """Read the word times of an LRS3 transcript.

    They are in the lines `WORD START END SCORE` below the line with these titles.

    Args:
        path: The transcript.

    Returns:
        (word, start, end) in seconds, in order of time.

    Raises:
        InputError: If there are no such lines, or they are malformed or not in order.
    """
    lines = read_lines(path)
    begin = next((n for n, line in enumerate(lines) if line.split()[:1] == ["WORD"]), len(lines))
    words: list[tuple[str, float, float]] = []
    for number, line in enumerate(lines[begin + 1 :], start=begin + 2):
        match line.split():
            case []:
                continue
            case [word, start, end, _score] if _is_time(start) and _is_time(end):
                words.append((word, float(start), float(end)))
            case _:
                raise InputError(_wrong_line(path, number, line, "WORD START END SCORE"))
        if words[-1][2] < words[-1][1] or words[-1][1] < max(w[1] for w in words[-2:]):
            raise InputError(f"{path} line {number}: the times go backwards; leave the clip out")
    if not words:
        raise InputError(f"{path}: no lines `WORD START END SCORE`; choose another corpus")
    return words


def _timed_excerpts(path: Path) -> list[Excerpt]:
    """Cut the timed words of a long video evenly."""
    words = timed_words(path)
    begin, duration = words[0][1], max(words[-1][2] - words[0][1], 1.0)
    count = math.ceil(duration / (LONGEST_EXCERPT - 1))  # a word may extend beyond its excerpt
    shares = groupby(words, lambda w: int(((w[1] + w[2]) / 2 - begin) * count / duration))
    return [
        Excerpt(" ".join(w for w, *_ in said), said[0][1], said[-1][2], f"_{number:02d}")
        for number, said in enumerate(list(share) for _, share in shares)
    ]


TRANSCRIPTS: dict[str, Callable[[Path], list[Excerpt]]] = {
    "lrs": _whole,
    "grid": _grid_words,
    "plain": _plain_text,
    "timed": _timed_excerpts,
}


def _spoken(path: Path, words: list[str]) -> Excerpt:
    if not words:
        raise InputError(f"{path}: no words; leave the clip out, or correct its transcript")
    return Excerpt(" ".join(words))


def _is_time(text: str) -> bool:
    """Return whether a text is a number of at most nine digits, with or without a decimal point."""
    whole, _, part = text.partition(".")
    return text.isascii() and (whole + part).isdigit() and len(whole) < 10


def _wrong_line(path: Path, number: int, line: str, form: str) -> str:
    return f"{path} line {number}: expected `{form}`, found {line[:80]!r}; leave the clip out"


def _pretrain(corpus: Path) -> list[Source]:
    # With the other clips of their speaker, so that no validation speaker is in the training set.
    return [
        Source(
            video,
            key,
            f"trainval/{video.parent.name}/pretrain_{video.stem}",
            video.with_suffix(".txt"),
            "timed",
        )
        for video, key in _videos(corpus, "pretrain/*/*")
    ]


def _videos(folder: Path, pattern: str) -> list[tuple[Path, str]]:
    """Find videos below a folder; also returns their relative paths without the suffix."""
    found = (p for p in folder.glob(pattern) if p.suffix.lower() in SUFFIXES and p.is_file())
    return [(p, p.relative_to(folder).with_suffix("").as_posix()) for p in sorted(found)]


def _report_skipped(folder: Path, known: set[str]) -> None:
    """Warn about unused files below a folder, counted by suffix."""
    endings = Counter(p.suffix.lower() for p in folder.rglob("*") if p.is_file())
    others = {e or "no suffix": n for e, n in endings.most_common() if e not in known}
    if others:
        counts = ", ".join(f"{number} {ending}" for ending, number in others.items())
        logger.warning(f"{folder}: {sum(others.values())} files skipped, not videos: {counts}")


def _grid_speaker(path: Path) -> str | None:
    """Return the nearest parent folder named s1 ... s34."""
    for part in reversed(path.parts[:-1]):
        if part[:1] == "s" and part[1:].isdigit():
            return part
    return None


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
