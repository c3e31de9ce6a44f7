"""Many videos -> mouth regions, in parallel; killed and started again it continues.

For each clip in the output folder: NAME.mp4 (96x96, gray, 25 frames a second), NAME.wav (16 kHz),
NAME.txt where there is a transcript, and sheets/NAME.jpg to look at. For the folder, report.jsonl
with a line a video, of this call and of earlier ones: quality, or what went wrong.
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
from avhubert_ext.data.media import LIMITS, Limits
from avhubert_ext.data.video import FPS, write_video
from avhubert_ext.errors import InputError
from avhubert_ext.mouth.clip import Faces, MouthClip, mouth_clips
from avhubert_ext.mouth.landmarks import DetectorError
from avhubert_ext.mouth.sheet import write_sheet
from avhubert_ext.preparation.corpora import Piece, Source, pieces
from avhubert_ext.workers import in_workers

if TYPE_CHECKING:
    from avhubert_ext.progress import Progress

CRF = 10  # x264's: no difference to be seen, and a third of the size of a lossless file
LANDMARK_SUFFIXES = (".pkl", ".npy", ".npz")


@dataclass(frozen=True)
class Settings:
    """How mouth regions are made.

    mouth: the videos are mouth regions already, of any size; landmarks: a folder with a file for
    each video under the video's path, or, for one video, the file; landmark_model: see
    `open_landmarker`; sheets: whether each gets a picture to look at.
    """

    faces: Faces = "largest"
    mouth: bool = False
    landmarks: Path | None = None
    landmark_model: Path | None = None
    limits: Limits = LIMITS
    sheets: bool = True


@dataclass(frozen=True)
class Summary:
    """Counts of a run: videos done by it or before it, and those with warnings among them."""

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
    """Write the clips of all sources, or of every N-th with shard (I, N), and the report.

    A video that fails is named, and the others are done. Clips that are there already, made of the
    same files with the same settings, are not made again. Raises InputError where nothing can be
    written, and where no face can be looked for.
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
        # Written again: without lines that are torn, failed, or about files that have changed.
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
                "error": f"{source.video}: the process that read it died (out of memory?); try it "
                "again with fewer --workers, or leave it out"
            }


def _line(source: Source, settings: Settings) -> dict[str, Any]:
    """A video's line of the report, without what became of it."""
    return {
        "name": source.name,
        "video": str(source.video.absolute()),
        "fingerprint": _fingerprint(source, settings),
    }


def _prepare_one(
    source: Source, out: Path, settings: Settings, bar: Progress | None = None
) -> dict[str, Any]:
    """Write the clips of one video; returns its line of the report."""
    line = _line(source, settings)
    try:
        said = pieces(source)
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
            name for clip in clips for name in _write(source, clip, said, out, settings)
        ]
        line["audio"] = any(clip.audio is not None for clip in clips)
        line["quality"] = [asdict(clip.quality) for clip in clips]
        line["warnings"] = list(dict.fromkeys(w for clip in clips for w in clip.warnings))
    except DetectorError:
        raise
    except InputError as error:
        line["error"] = str(error)
    except UnicodeError:
        line["error"] = f"{str(source.video)!r}: its name is not UTF-8; rename it"
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # a full disk, say, is the end of the run
            raise
        line["error"] = f"{source.video}: its name is too long for a file system; shorten it"
    return line


def _show_progress(bar: Progress, done: int, total: int) -> None:
    bar.total = total or None
    bar.update(done - bar.n)


def _write(
    source: Source, clip: MouthClip, said: list[Piece], out: Path, settings: Settings
) -> list[str]:
    """Write the files of one face; returns the names of its clips."""
    if source.transcript is not None and clip.audio is None:
        raise InputError(f"{source.video}: no audio track, which a clip with a transcript needs")
    name = source.name
    if settings.faces == "all":
        name += f"_face{clip.face}"
    for piece in said:
        video, audio = _cut(source, clip, piece)
        base = f"{out / name}{piece.suffix}"
        if audio is not None:
            write_wav(Path(f"{base}.wav"), audio)
        if piece.text is not None:
            write_text(Path(f"{base}.txt"), f"Text:  {piece.text}\n")
        with whole_file(Path(f"{base}.mp4")) as temporary:
            write_video(temporary, video, FPS, crf=CRF)
    if settings.sheets:
        write_sheet(Path(f"{out / 'sheets' / name}.jpg"), clip.video, clip.pictures)
    return [name + piece.suffix for piece in said]


def _cut(source: Source, clip: MouthClip, piece: Piece) -> tuple[np.ndarray, np.ndarray | None]:
    """Video and audio of a piece."""
    frames = len(clip.video)
    first = math.floor(piece.start * FPS)
    last = frames if piece.end is None else math.ceil(piece.end * FPS)
    if not 0 <= first < min(last, frames):
        raise InputError(
            f"{source.transcript}: words at {piece.start:g} s, but {source.video} ends at "
            f"{frames / FPS:g} s; they belong to another video"
        )
    samples = slice(first * SAMPLES_PER_FRAME, last * SAMPLES_PER_FRAME)
    return clip.video[first:last], None if clip.audio is None else clip.audio[samples]


def _named(sources: list[Source], out: Path, known: dict[str, dict]) -> list[Source]:
    """The sources that do not lie in the output folder themselves, each with a name of its own.

    known: lines of earlier calls, whose videos keep their names.
    """
    from avhubert_ext.progress import Progress

    apart = [s for s in sources if out.resolve() not in s.video.resolve().parents]
    if not apart:
        raise InputError(f"{out}: the videos lie in the folder to write; choose another")
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
                f"{source.video} becomes {name}.mp4: {other} has its name", file=sys.stderr
            )
        named[name] = replace(source, name=name)
    return list(named.values())


def _names(source: Source) -> Iterator[str]:
    """The name of a source, and others for it should that be taken."""
    yield source.name
    yield source.name + source.video.suffix.replace(".", "_")
    yield from (f"{source.name}_{number}" for number in count(2))


def _landmark_file(source: Source, landmarks: Path | None) -> Path | None:
    """The landmarks of a video; a file that is not there if there are none."""
    if landmarks is None or landmarks.is_file():
        return landmarks
    files = [Path(f"{landmarks / source.key}{suffix}") for suffix in LANDMARK_SUFFIXES]
    return next((file for file in files if file.is_file()), files[0])


def _fingerprint(source: Source, settings: Settings) -> str:
    """What a clip was made from: another value, another clip."""
    files = [source.video, source.transcript, _landmark_file(source, settings.landmarks)]
    status = [f.stat() for f in files if f is not None and f.is_file()]
    stamps = " ".join(f"{s.st_size}:{s.st_mtime_ns}" for s in status)
    chosen = f"{settings.faces} {settings.landmark_model or ''}" + " mouth" * settings.mouth
    return f"{source.video.absolute()} {stamps} {chosen}"


def _is_done(line: dict, source: Source, out: Path, settings: Settings) -> bool:
    """Whether all that would be made of a source is there already."""
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
    """Remove the clips that an earlier call made of a video, and this one did not."""
    for name in set(before.get("clips", ())) - set(line.get("clips", ())):
        for suffix in (".mp4", ".wav", ".txt"):
            Path(f"{out / name}{suffix}").unlink(missing_ok=True)


def _still_true(line: dict) -> bool:
    """Whether a line of an earlier call is worth keeping: not of a failed video that is gone."""
    return "error" not in line or Path(line["video"]).is_file()


def _as_line(line: dict) -> str:
    return json.dumps(line) + "\n"


def _read_report(path: Path) -> dict[str, dict]:
    """The lines of a report by name, without those that are none."""
    if not path.is_file():
        return {}
    lines = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue  # cut short by a kill: that video again
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
