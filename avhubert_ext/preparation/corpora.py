"""Where raw corpora keep their videos and transcripts, and where those go in LRS3's layout.

Each layout is a function from a corpus' folder to its sources; each form of transcript a function
from a file to pieces of text. Nothing is read before a source's turn, so that one bad file among
thousands is one failure.
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

# Of files that may hold a moving picture in a format that can be read (see `mouth.media`).
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
TEST_SHARE = 0.1  # of the speakers of a plain folder
LONGEST_PIECE = 24.0  # seconds of a pretrain clip, as Auto-AVSR cuts them


@dataclass(frozen=True)
class Source:
    """A video of a corpus.

    key: its path in the corpus, without the ending; name: that of what is made of it, in LRS3's
    layout where it has a transcript (`trainval/`, `valid/` or `test/`, speaker, clip); form: of the
    transcript, a key of TRANSCRIPTS.
    """

    video: Path
    key: str
    name: str
    transcript: Path | None = None
    form: str = "lrs"


@dataclass(frozen=True)
class Piece:
    """What is said from `start` to `end`, in seconds; None is the end of the video.

    suffix: for the names of the pieces of one video.
    """

    text: str | None
    start: float = 0.0
    end: float | None = None
    suffix: str = ""


def plain_videos(inputs: Iterable[Path]) -> list[Source]:
    """Videos without transcripts: files as named, folders with all videos below them.

    What else is in a folder is counted in a warning.
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
            f"{', '.join(map(str, inputs))}: no video in it; known endings are "
            f"{' '.join(sorted(SUFFIXES))}"
        )
    return sources


def lrs3(corpus: Path) -> list[Source]:
    """`{trainval,test}/SPEAKER/CLIP.mp4` with `CLIP.txt`, and `pretrain/`, cut between words.

    So is `valid/`, if there is one.
    """
    return [
        Source(video, key, key, video.with_suffix(".txt"))
        for split in ("trainval", "valid", "test")
        for video, key in _videos(corpus, f"{split}/*/*")
    ] + _pretrain(corpus)


def lrs2(corpus: Path) -> list[Source]:
    """`main/ID/CLIP.mp4` with `CLIP.txt`, `train.txt`, `val.txt`, `test.txt`; and `pretrain/`.

    Its validation set stays one. Raises InputError for a clip that is in two of the lists.
    """
    split_of: dict[str, str] = {}
    for listed, split in (("train", "trainval"), ("val", "valid"), ("test", "test")):
        path = corpus / f"{listed}.txt"
        for clip in (line.split()[0] for line in read_lines(path, _OF_CORPUS) if line.strip()):
            if split_of.setdefault(clip, split) != split:
                raise InputError(f"{path}: {clip} is in another list too; copy the lists again")
    found = {key.removeprefix("main/"): video for video, key in _videos(corpus, "main/*/*")}
    absent, unlisted = sorted(split_of.keys() - found), sorted(found.keys() - split_of)
    if found and absent:
        logger.warning(f"{corpus}: {len(absent)} clips of its lists are not there: {absent[0]!r} …")
    if unlisted:
        logger.warning(f"{corpus}: {len(unlisted)} clips skipped, in no list: {unlisted[0]!r} …")
    return [
        Source(video, f"main/{clip}", f"{split_of[clip]}/{clip}", video.with_suffix(".txt"))
        for clip, video in found.items()
        if clip in split_of
    ] + _pretrain(corpus)


def grid(corpus: Path) -> list[Source]:
    """`CLIP.mpg` and `CLIP.align` somewhere below folders named s1 ... s34.

    s1, s2, s20 and s22 are for the test. Clips of different speakers share names.
    """
    alignments = {(_grid_speaker(a), a.stem): a for a in sorted(corpus.rglob("*.align"))}
    sources = []
    for video, key in _videos(corpus, "**/*"):
        speaker = _grid_speaker(video)
        if speaker is None:
            logger.warning(f"{video}: skipped, not below a folder of a speaker, s1 to s34")
            continue
        split = "test" if speaker in GRID_TEST else "trainval"
        transcript = alignments.get((speaker, video.stem), video.with_suffix(".align"))
        sources.append(Source(video, key, f"{split}/{speaker}/{video.stem}", transcript, "grid"))
    return sources


def folder(corpus: Path) -> list[Source]:
    """`[SPEAKER/]CLIP.*` with `CLIP.txt`, plain text; a tenth of the speakers for the test.

    Videos right in the folder count as a speaker each. Raises InputError for fewer speakers than
    there are splits.
    """
    videos = [(video, key) for video, key in _videos(corpus, "**/*")]
    speakers = sorted({key.split("/")[0] for _, key in videos}, key=_hash)
    if 0 < len(speakers) < len(SPLITS):
        raise InputError(
            f"{corpus}: speakers: {len(speakers)}; {', '.join(SPLITS)} take at least one each. "
            "Clips that lie right in the folder count as a speaker each"
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
    """The videos of a corpus with their transcripts."""
    if not corpus.is_dir():
        raise InputError(f"{corpus}: not a folder; give the folder of the corpus")
    sources = LAYOUTS[layout](corpus)
    _report_skipped(corpus, SUFFIXES | TRANSCRIPT_SUFFIXES)
    if not sources:
        form = (LAYOUTS[layout].__doc__ or "").splitlines()[0]
        raise InputError(f"{corpus}: not laid out as {layout}: {form}")
    return sources


def pieces(source: Source) -> list[Piece]:
    """What is said in a video, in pieces; one without text if there is no transcript."""
    if source.transcript is None:
        return [Piece(None)]
    if not source.transcript.is_file():
        raise InputError(f"{source.video}: no transcript; {source.transcript} should be there")
    return TRANSCRIPTS[source.form](source.transcript)


def _whole(path: Path) -> list[Piece]:
    return [Piece(read_transcript(path))]


def _grid_words(path: Path) -> list[Piece]:
    """Lines `START END WORD`."""
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


def _plain_text(path: Path) -> list[Piece]:
    return [_spoken(path, " ".join(read_lines(path)).split())]


def timed_words(path: Path) -> list[tuple[str, float, float]]:
    """(word, start, end) in seconds, of an LRS3 transcript, in the order of time.

    Those are the lines `WORD START END SCORE` below the line with these titles.
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
            raise InputError(f"{path} line {number}: its times go back; leave the clip out")
    if not words:
        raise InputError(f"{path}: no lines `WORD START END SCORE` in it; name another corpus")
    return words


def _timed_pieces(path: Path) -> list[Piece]:
    """Its timed words, cut evenly."""
    words = timed_words(path)
    begin, duration = words[0][1], max(words[-1][2] - words[0][1], 1.0)
    count = math.ceil(duration / (LONGEST_PIECE - 1))  # a word may reach beyond its piece's share
    shares = groupby(words, lambda w: int(((w[1] + w[2]) / 2 - begin) * count / duration))
    return [
        Piece(" ".join(w for w, *_ in said), said[0][1], said[-1][2], f"_{number:02d}")
        for number, said in enumerate(list(share) for _, share in shares)
    ]


TRANSCRIPTS: dict[str, Callable[[Path], list[Piece]]] = {
    "lrs": _whole,
    "grid": _grid_words,
    "plain": _plain_text,
    "timed": _timed_pieces,
}


def _spoken(path: Path, words: list[str]) -> Piece:
    if not words:
        raise InputError(f"{path}: no words in it; leave the clip out, or correct its transcript")
    return Piece(" ".join(words))


def _is_time(text: str) -> bool:
    """Whether it is a number of at most nine digits, with or without a decimal point."""
    whole, _, part = text.partition(".")
    return text.isascii() and (whole + part).isdigit() and len(whole) < 10


def _wrong_line(path: Path, number: int, line: str, form: str) -> str:
    return f"{path} line {number}: expected `{form}`, found {line[:80]!r}; leave the clip out"


def _pretrain(corpus: Path) -> list[Source]:
    # With the other clips of their speaker, so that no validation speaker is trained on.
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
    """Videos below a folder with their paths in it, without the ending."""
    found = (p for p in folder.glob(pattern) if p.suffix.lower() in SUFFIXES and p.is_file())
    return [(p, p.relative_to(folder).with_suffix("").as_posix()) for p in sorted(found)]


def _report_skipped(folder: Path, known: set[str]) -> None:
    """Warn of the files below a folder that are not used, by their ending."""
    endings = Counter(p.suffix.lower() for p in folder.rglob("*") if p.is_file())
    others = {e or "no ending": n for e, n in endings.most_common() if e not in known}
    if others:
        counts = ", ".join(f"{number} {ending}" for ending, number in others.items())
        logger.warning(f"{folder}: {sum(others.values())} files skipped, not videos: {counts}")


def _grid_speaker(path: Path) -> str | None:
    """The nearest folder named s1 ... s34."""
    for part in reversed(path.parts[:-1]):
        if part[:1] == "s" and part[1:].isdigit():
            return part
    return None


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
