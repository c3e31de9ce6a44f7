"""Many videos -> mouth regions, in parallel; killed and started again it goes on.

For each clip in the output folder: NAME.mp4 (96x96, gray, 25 frames a second), NAME.wav (16 kHz),
NAME.txt where there is a transcript, and sheets/NAME.jpg to look at; for the whole, report.jsonl
with a line a video: quality, or what went wrong.
"""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from avhubert_ext.data.audio import SAMPLES_PER_FRAME, write_wav
from avhubert_ext.data.corpora import Piece, Source, pieces
from avhubert_ext.data.files import make_folder, one_at_a_time, whole_file, write_text
from avhubert_ext.data.video import FPS, write_video
from avhubert_ext.errors import InputError
from avhubert_ext.mouth.clip import Faces, MouthClip, mouth_clips
from avhubert_ext.mouth.landmarks import DetectorError
from avhubert_ext.mouth.media import LIMITS, Limits
from avhubert_ext.mouth.sheet import write_sheet
from avhubert_ext.workers import WORKER_DIED, follow_parent

CRF = 10  # x264's: no difference to be seen, and a third of the size of a lossless file
POOR = 0.2  # of the frames without a face: such a clip is worth a look
LANDMARK_SUFFIXES = (".pkl", ".npy", ".npz")


@dataclass(frozen=True)
class Settings:
    """How mouth regions are made.

    landmarks: a folder with a file for each video under the video's path, or, for one video, the
    file; landmark_model: see `open_landmarker`; sheets: whether each gets a picture to look at.
    """

    faces: Faces = "largest"
    landmarks: Path | None = None
    landmark_model: Path | None = None
    limits: Limits = LIMITS
    sheets: bool = True


@dataclass(frozen=True)
class Summary:
    """Counts of a run: videos done by it or before it, and those with few faces among them."""

    videos: int
    failed: int
    poor: int
    seconds: float


def prepare_video(
    sources: list[Source],
    out: Path,
    settings: Settings = Settings(),
    workers: int = 1,
    shard: tuple[int, int] = (1, 1),
) -> Summary:
    """Write the clips of all sources, or of every N-th with shard (I, N), and the report.

    A video that fails is named, the rest goes on. Raises InputError where nothing can be written,
    and where no face can be looked for.
    """
    from tqdm import tqdm

    number, shards = shard
    sources = sorted(_named(sources, out), key=lambda s: s.name)[number - 1 :: shards]
    make_folder(out)
    report = out / ("report.jsonl" if shards == 1 else f"report-{number}-of-{shards}.jsonl")
    with one_at_a_time(report):
        before = _read_report(report)
        lines = {
            s.name: before[s.name]
            for s in sources
            if s.name in before and _is_done(before[s.name], s, out, settings)
        }
        # Written anew: without lines that are torn, failed, or about files that have changed since.
        write_text(report, "".join(map(_as_line, lines.values())))
        todo = [s for s in sources if s.name not in lines]
        with report.open("a", encoding="utf-8", buffering=1) as log:
            for line in _work(todo, len(sources), out, settings, workers):
                lines[line["name"]] = line
                if "error" in line:
                    tqdm.write(f"failed: {line['error']}", file=sys.stderr)
                log.write(_as_line(line))
    return _summary(lines.values())


def _work(
    todo: list[Source], total: int, out: Path, settings: Settings, workers: int
) -> Iterator[dict]:
    from tqdm import tqdm

    if len(todo) == 1:
        with tqdm(desc=todo[0].name, unit="frame") as bar:
            yield _prepare_one(todo[0], out, settings, bar)
        return
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, context, initializer=follow_parent) as pool,
        tqdm(total=total, initial=total - len(todo), desc="prepare-video", unit="video") as bar,
    ):
        try:
            for job in as_completed([pool.submit(_prepare_one, s, out, settings) for s in todo]):
                bar.update()
                yield job.result()
        except BrokenProcessPool:
            raise InputError(WORKER_DIED) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare_one(source: Source, out: Path, settings: Settings, bar: object = None) -> dict:
    """Write the clips of one video; returns its line of the report."""
    line = {
        "name": source.name,
        "video": str(source.video),
        "fingerprint": _fingerprint(source, settings),
    }

    def progress(done: int, total: int) -> None:
        bar.total = total or None
        bar.update(done - bar.n)

    try:
        said = pieces(source)
        clips = mouth_clips(
            source.video,
            settings.faces,
            landmarks=_landmark_file(source, settings.landmarks),
            landmark_model=settings.landmark_model,
            limits=settings.limits,
            progress=progress if bar is not None else None,
        )
        line["clips"] = [
            name for clip in clips for name in _write(source, clip, said, out, settings)
        ]
        line["quality"] = [asdict(clip.quality) for clip in clips]
    except DetectorError:
        raise
    except InputError as error:
        line["error"] = str(error)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # a full disk, say, is the end of the run
            raise
        line["error"] = f"{source.video}: its name is too long for a file system; shorten it"
    return line


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


def _named(sources: list[Source], out: Path) -> list[Source]:
    """The sources that do not lie in the output folder themselves; no two with one name."""
    apart = [s for s in sources if out.resolve() not in s.video.resolve().parents]
    if not apart:
        raise InputError(f"{out}: the videos lie in the folder to write; choose another")
    known: dict[str, Path] = {}
    for source in apart:
        other = known.setdefault(source.name, source.video)
        if other != source.video:
            raise InputError(
                f"{source.video} and {other} would both become {source.name}.mp4; rename one, or "
                "prepare them into two folders"
            )
    return list({s.name: s for s in apart}.values())


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
    chosen = f"{settings.faces} {settings.landmark_model or ''}"
    return f"{source.video.absolute()} {stamps} {chosen}"


def _is_done(line: dict, source: Source, out: Path, settings: Settings) -> bool:
    return (
        "error" not in line
        and line.get("fingerprint") == _fingerprint(source, settings)
        and all(Path(f"{out / name}.mp4").is_file() for name in line["clips"])
    )


def _as_line(line: dict) -> str:
    return json.dumps(line) + "\n"


def _read_report(path: Path) -> dict[str, dict]:
    lines = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # cut short by a kill: that video again
        lines[line["name"]] = line
    return lines


def _summary(lines: Iterable[dict]) -> Summary:
    lines = list(lines)
    qualities = [q for line in lines for q in line.get("quality", ())]
    return Summary(
        videos=len(lines),
        failed=sum("error" in line for line in lines),
        poor=sum(q["missing"] > POOR * q["frames"] for q in qualities),
        seconds=sum(q["frames"] for q in qualities) / FPS,
    )
