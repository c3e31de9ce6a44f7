"""Extract the mouth regions of many videos in parallel. An interrupted run can be resumed.

The output folder contains for each clip NAME.mp4 (96x96, gray, 25 frames/s), NAME.wav (16 kHz),
NAME.txt if there is a transcript, and the contact sheet sheets/NAME.jpg; and report.jsonl with one
line per video of this run and earlier ones: its quality, or what went wrong.
"""

from __future__ import annotations

import errno
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avhubert_ext.data.audio import SAMPLES_PER_FRAME, write_wav
from avhubert_ext.data.files import make_folder, one_at_a_time, whole_file, write_text
from avhubert_ext.data.media import MEDIA_LIMITS, MediaLimits
from avhubert_ext.data.video import FPS, write_video
from avhubert_ext.errors import InputError
from avhubert_ext.mouth.clip import Faces, MouthClip, mouth_clips
from avhubert_ext.mouth.landmarks import DetectorError
from avhubert_ext.mouth.sheet import write_sheet
from avhubert_ext.preparation.corpora import Excerpt, Source, excerpts
from avhubert_ext.workers import in_workers

if TYPE_CHECKING:
    from avhubert_ext.progress import Progress

CRF = 10  # of x264: no visible loss at a third of the size of a lossless file
LANDMARK_SUFFIXES = (".pkl", ".npy", ".npz")


@dataclass(frozen=True)
class Settings:
    """How mouth regions are extracted.

    Attributes:
        faces: Which faces to extract, see `mouth_clips`.
        mouth: Whether the videos are already mouth regions, of any size.
        landmarks: A folder with one landmark file per video under the same relative path, or the
            file of a single video.
        landmark_model: See `open_landmarker`.
        limits: The longest video and the largest frame to accept.
        sheets: Whether to write contact sheets.
    """

    faces: Faces = "largest"
    mouth: bool = False
    landmarks: Path | None = None
    landmark_model: Path | None = None
    limits: MediaLimits = MEDIA_LIMITS
    sheets: bool = True


@dataclass(frozen=True)
class Summary:
    """Counts of a run, including videos done by earlier runs.

    Attributes:
        videos: The number of videos.
        failed: Videos that failed.
        warned: Videos with warnings.
        seconds: Total length of the clips.
    """

    videos: int
    failed: int
    warned: int
    seconds: float


def prepare_video(
    sources: list[Source],
    out: Path,
    settings: Settings = Settings(),
    workers: int = 1,
    shard: tuple[int, int] = (1, 1),
) -> Summary:
    """Write the clips of all sources and the report.

    A failing video is reported, and the others are processed. Existing clips from the same files
    with the same settings are not made again.

    Args:
        sources: The videos.
        out: The output folder.
        settings: How to extract mouth regions.
        workers: The number of worker processes.
        shard: (I, N) processes only the I-th of N parts, I from 1.

    Raises:
        InputError: If the folder cannot be written to, or the face detector is not available.
    """
    from avhubert_ext.progress import Progress

    number, shards = shard
    make_folder(out)
    report = out / ("report.jsonl" if shards == 1 else f"report-{number}-of-{shards}.jsonl")
    with one_at_a_time(report):
        own = _read_report(report)
        known = own.copy()
        for other in sorted(out.glob("report*.jsonl")):
            known = _read_report(other) | known
        named = _named(sources, out, known)[number - 1 :: shards]
        names = {s.name for s in named}
        lines = {
            s.name: known[s.name]
            for s in named
            if s.name in known and _is_done(known[s.name], s, out, settings)
        }
        # Rewritten without lines that are truncated, of failures, or about changed files.
        earlier = [line for name, line in own.items() if name not in names and _still_true(line)]
        write_text(report, "".join(map(_as_line, [*earlier, *lines.values()])))
        todo = [s for s in named if s.name not in lines]
        with report.open("a", encoding="utf-8", buffering=1) as log:
            for line in _work(todo, len(named), out, settings, workers):
                lines[line["name"]] = line
                _remove_others(known.get(line["name"], {}), line, out)
                if "error" in line:
                    Progress.write(f"failed: {line['error']}", file=sys.stderr)
                for warning in line.get("warnings", ()):
                    Progress.write(f"warning: {line['video']}: {warning}", file=sys.stderr)
                log.write(_as_line(line))
    return _summary(lines.values())


def _work(
    todo: list[Source], total: int, out: Path, settings: Settings, workers: int
) -> Iterator[dict]:
    from avhubert_ext.progress import Progress

    if len(todo) == 1:
        with Progress(desc=todo[0].name, unit="frame") as bar:
            yield _prepare_one(todo[0], out, settings, bar)
        return
    prepare_one = partial(_prepare_one, out=out, settings=settings)
    count = {"total": total, "initial": total - len(todo)}
    with Progress(**count, desc="video", unit="video") as bar:
        for source, line in in_workers(prepare_one, todo, workers):
            bar.update()
            yield line or _line(source, settings) | {
                "error": f"{source.video}: its worker process died (out of memory?); try again "
                "with fewer --workers, or leave the video out"
            }


def _line(source: Source, settings: Settings) -> dict[str, Any]:
    """Return the first fields of a video's line in the report, without its result."""
    return {
        "name": source.name,
        "video": str(source.video.absolute()),
        "fingerprint": _fingerprint(source, settings),
    }


def _prepare_one(
    source: Source, out: Path, settings: Settings, bar: Progress | None = None
) -> dict[str, Any]:
    """Write the clips of one video, and return its line in the report."""
    line = _line(source, settings)
    try:
        parts = excerpts(source)
        clips = mouth_clips(
            source.video,
            settings.faces,
            mouth=settings.mouth,
            landmarks=_landmark_file(source, settings.landmarks),
            landmark_model=settings.landmark_model,
            limits=settings.limits,
            progress=None if bar is None else partial(_show_progress, bar),
        )
        line["clips"] = [
            name for clip in clips for name in _write(source, clip, parts, out, settings)
        ]
        line["audio"] = any(clip.audio is not None for clip in clips)
        line["quality"] = [asdict(clip.quality) for clip in clips]
        line["warnings"] = list(dict.fromkeys(w for clip in clips for w in clip.warnings))
    except DetectorError:
        raise
    except InputError as error:
        line["error"] = str(error)
    except UnicodeError:
        line["error"] = f"{str(source.video)!r}: the name is not UTF-8; rename the file"
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # for example a full disk, which ends the run
            raise
        line["error"] = f"{source.video}: the name is too long for the file system; shorten it"
    return line


def _show_progress(bar: Progress, done: int, total: int) -> None:
    bar.total = total or None
    bar.update(done - bar.n)


def _write(
    source: Source, clip: MouthClip, parts: list[Excerpt], out: Path, settings: Settings
) -> list[str]:
    """Write the files of one face, and return the names of its clips."""
    if source.transcript is not None and clip.audio is None:
        raise InputError(f"{source.video}: no audio track, but a clip with a transcript needs one")
    name = source.name
    if settings.faces == "all":
        name += f"_face{clip.face}"
    for part in parts:
        video, audio = _cut(source, clip, part)
        base = f"{out / name}{part.suffix}"
        if audio is not None:
            write_wav(Path(f"{base}.wav"), audio)
        if part.text is not None:
            write_text(Path(f"{base}.txt"), f"Text:  {part.text}\n")
        with whole_file(Path(f"{base}.mp4")) as temporary:
            write_video(temporary, video, FPS, crf=CRF)
    if settings.sheets:
        write_sheet(Path(f"{out / 'sheets' / name}.jpg"), clip.video, clip.pictures)
    return [name + part.suffix for part in parts]


def _cut(source: Source, clip: MouthClip, part: Excerpt) -> tuple[np.ndarray, np.ndarray | None]:
    """Cut the video and audio of an excerpt."""
    frames = len(clip.video)
    first = math.floor(part.start * FPS)
    last = frames if part.end is None else math.ceil(part.end * FPS)
    if not 0 <= first < min(last, frames):
        raise InputError(
            f"{source.transcript}: words at {part.start:g} s, but {source.video} ends at "
            f"{frames / FPS:g} s; use the transcript of this video"
        )
    samples = slice(first * SAMPLES_PER_FRAME, last * SAMPLES_PER_FRAME)
    return clip.video[first:last], None if clip.audio is None else clip.audio[samples]


def _named(sources: list[Source], out: Path, known: dict[str, dict]) -> list[Source]:
    """Give every source outside the output folder a unique name.

    Args:
        sources: The videos.
        out: The output folder.
        known: Lines of earlier runs, whose videos keep their names.
    """
    from avhubert_ext.progress import Progress

    apart = [s for s in sources if out.resolve() not in s.video.resolve().parents]
    if not apart:
        raise InputError(f"{out}: the videos are in the output folder; choose another one")
    taken = {
        name: Path(line["video"]).resolve()
        for name, line in known.items()
        if "error" not in line and Path(line["video"]).is_file()
    }
    named = {}
    for source in sorted(apart, key=lambda s: (s.name, str(s.video))):
        video = source.video.resolve()
        for name in _names(source):
            if taken.setdefault(name, video) == video:
                break
        if name != source.name:
            other = taken[source.name]
            Progress.write(
                f"{source.video} becomes {name}.mp4, as {other} has the same name", file=sys.stderr
            )
        named[name] = replace(source, name=name)
    return list(named.values())


def _names(source: Source) -> Iterator[str]:
    """Yield the name of a source, and alternatives in case it is taken."""
    yield source.name
    yield source.name + source.video.suffix.replace(".", "_")
    yield from (f"{source.name}_{number}" for number in count(2))


def _landmark_file(source: Source, landmarks: Path | None) -> Path | None:
    """Return the landmark file of a video; a missing file if there is none."""
    if landmarks is None or landmarks.is_file():
        return landmarks
    files = [Path(f"{landmarks / source.key}{suffix}") for suffix in LANDMARK_SUFFIXES]
    return next((file for file in files if file.is_file()), files[0])


def _fingerprint(source: Source, settings: Settings) -> str:
    """Describe files and settings of a clip, to detect changes."""
    files = [source.video, source.transcript, _landmark_file(source, settings.landmarks)]
    status = [f.stat() for f in files if f is not None and f.is_file()]
    stamps = " ".join(f"{s.st_size}:{s.st_mtime_ns}" for s in status)
    chosen = f"{settings.faces} {settings.landmark_model or ''}" + " mouth" * settings.mouth
    return f"{source.video.absolute()} {stamps} {chosen}"


def _is_done(line: dict, source: Source, out: Path, settings: Settings) -> bool:
    """Return whether all output of a source exists."""
    if "error" in line or line.get("fingerprint") != _fingerprint(source, settings):
        return False
    suffixes = [".mp4", ".wav"] if line.get("audio") else [".mp4"]
    if source.transcript is not None:
        suffixes.append(".txt")
    files = [Path(f"{out / name}{suffix}") for name in line["clips"] for suffix in suffixes]
    if settings.sheets:
        sheets = line["clips"] if settings.faces == "all" else [source.name]
        files += [Path(f"{out / 'sheets' / name}.jpg") for name in sheets]
    frames = max((quality["frames"] for quality in line["quality"]), default=0)
    within = frames / FPS <= settings.limits.seconds + 1
    return within and all(file.is_file() and file.stat().st_size for file in files)


def _remove_others(before: dict, line: dict, out: Path) -> None:
    """Remove clips of a video that an earlier run wrote, but not this one."""
    for name in set(before.get("clips", ())) - set(line.get("clips", ())):
        for suffix in (".mp4", ".wav", ".txt"):
            Path(f"{out / name}{suffix}").unlink(missing_ok=True)


def _still_true(line: dict) -> bool:
    """Return whether to keep the line of an earlier run: not that of a failed, deleted video."""
    return "error" not in line or Path(line["video"]).is_file()


def _as_line(line: dict) -> str:
    return json.dumps(line) + "\n"


def _read_report(path: Path) -> dict[str, dict]:
    """Read the valid lines of a report by name."""
    if not path.is_file():
        return {}
    lines = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue  # truncated by a kill: process that video again
        if _is_line(line):
            lines[line["name"]] = line
    return lines


def _is_line(line: object) -> bool:
    if not (
        isinstance(line, dict) and all(isinstance(line.get(k), str) for k in ("name", "video"))
    ):
        return False
    clips, quality = line.get("clips", []), line.get("quality", [])
    if not (isinstance(clips, list) and isinstance(quality, list)):
        return False
    inside = all(isinstance(c, str) and ".." not in Path(c).parts and c[:1] != "/" for c in clips)
    whole = all(isinstance(q, dict) and isinstance(q.get("frames"), int) for q in quality)
    return inside and whole and ("error" in line or bool(clips))


def _summary(lines: Iterable[dict]) -> Summary:
    lines = list(lines)
    qualities = [q for line in lines for q in line.get("quality", ())]
    return Summary(
        videos=len(lines),
        failed=sum("error" in line for line in lines),
        warned=sum(bool(line.get("warnings")) for line in lines),
        seconds=sum(q["frames"] for q in qualities) / FPS,
    )
