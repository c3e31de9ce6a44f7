"""`transcribe`: text, timed words and subtitles from videos."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from avhubert_ext.cli.parsing import (
    add_device,
    add_landmark_model,
    add_recognizer,
    command,
    positive,
)
from avhubert_ext.errors import InputError

if TYPE_CHECKING:
    from avhubert_ext.progress import Progress
    from avhubert_ext.recognizers.base import Recognizer

FORMATS = ("txt", "json", "srt", "vtt")
LONG = 300  # seconds; for longer files the time that it took is reported


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    _add_transcribe(commands)


def _transcribe(args: argparse.Namespace) -> None:
    formats = args.formats or (FORMATS if args.out else FORMATS[:1])
    _check(args, formats)
    from avhubert_ext.data.files import make_folder
    from avhubert_ext.decoding.beam import SearchConfig
    from avhubert_ext.progress import Progress
    from avhubert_ext.recognizers.base import Recognizer

    if args.out:
        make_folder(args.out)
    recognizer = Recognizer.from_file(
        args.model,
        dictionary=args.dictionary,
        search=SearchConfig(beam=args.beam, ctc_weight=args.ctc_weight),
        device=args.device,
        threads=args.threads,
    )
    modalities = _modalities(args, recognizer)
    failed = 0
    names = _names(args.files) if args.out else [path.stem for path in args.files]
    for path, name in zip(args.files, names, strict=True):
        there = [form for form in formats if args.out and (args.out / f"{name}.{form}").exists()]
        if there:
            found = " ".join(f"{name}.{form}" for form in there)
            print(
                f"{path}: {args.out} already has {found}; delete to transcribe again",
                file=sys.stderr,
            )
        missing = tuple(form for form in formats if form not in there)
        if not missing:
            continue
        try:
            with Progress(unit="frame", leave=False, desc=path.name) as bar:
                written = _one(args, missing, recognizer, modalities, path, name, bar)
        except InputError as error:
            if len(args.files) == 1:
                raise
            print(f"avhubert-ext: error: {error}", file=sys.stderr)
            failed += 1
            continue
        print(written, end="", flush=True)
    if failed:
        raise InputError(f"{failed} of {len(args.files)} files failed, as reported above")


def _check(args: argparse.Namespace, formats: tuple[str, ...]) -> None:
    """Raise an InputError for options that do not fit together, before anything is read."""
    from avhubert_ext.transcription.transcribe import check_longest

    check_longest(args.longest)
    several = len(args.files) > 1
    if args.landmarks and several:
        raise InputError("--landmarks belongs to one video; name one")
    if args.landmarks and args.mouth:
        raise InputError("--mouth: a mouth region has no landmarks; omit --landmarks")
    if not args.out and (len(formats) > 1 or (several and formats[0] in ("srt", "vtt"))):
        raise InputError("several files to write; name a folder for them with --out FOLDER")
    if args.out:
        _names(args.files)


def _modalities(args: argparse.Namespace, recognizer: Recognizer) -> tuple[str, ...]:
    """The streams that may be used."""
    if args.modalities is None:
        return recognizer.modalities
    if args.modalities not in recognizer.modalities:
        takes = " or ".join(recognizer.modalities)
        raise InputError(f"--modalities {args.modalities}: {args.model} takes {takes}")
    return (args.modalities,)


def _one(
    args: argparse.Namespace,
    formats: tuple[str, ...],
    recognizer: Recognizer,
    modalities: tuple[str, ...],
    path: Path,
    name: str,
    bar: Progress,
) -> str:
    """Transcribe a file and write the formats under `--out`, if given; returns what to print."""
    from avhubert_ext.data.files import write_text
    from avhubert_ext.data.media import MediaLimits
    from avhubert_ext.transcription import subtitles
    from avhubert_ext.transcription.streams import read_streams

    begun = time.monotonic()
    streams = read_streams(
        path,
        modalities,
        face=args.face,
        mouth=args.mouth,
        landmarks=args.landmarks,
        landmark_model=args.landmark_model,
        limits=MediaLimits(seconds=args.max_seconds),
        progress=_stage(bar, f"{path.name} mouth"),
    )
    transcript = recognizer.transcribe(
        audio=streams.audio,
        video=streams.video,
        seen=streams.seen,
        longest=args.longest,
        progress=_stage(bar, f"{path.name} words"),
    )
    transcript = replace(transcript, notes=streams.notes + transcript.notes)
    for note in transcript.notes:
        bar.write(f"{path}: {note}", file=sys.stderr)
    if transcript.seconds > LONG:
        taken = time.monotonic() - begun
        bar.write(f"{path}: {transcript.seconds:.0f} s in {taken:.0f} s", file=sys.stderr)
    written = {form: subtitles.FORMATS[form](transcript) for form in formats if form != "json"}
    if "json" in formats:
        about = {"file": str(path), "model": str(args.model)}
        written["json"] = subtitles.to_json(transcript, **about)
    if not args.out:
        begin = f"{path}: " if len(args.files) > 1 and formats[0] == "txt" else ""
        return begin + written[formats[0]]
    for form, text in written.items():
        write_text(args.out / f"{name}.{form}", text)
    return f"{path}: {transcript.text}\n"


def _stage(bar: Progress, what: str) -> Callable[[int, int], None]:
    """A function that reports the progress of one stage, which begins with its first call."""
    begun = False

    def show(done: int, of: int) -> None:
        nonlocal begun
        if not begun:
            bar.reset()
            bar.set_description_str(what)
            begun = True
        bar.total = of or None
        bar.update(done - bar.n)

    return show


def _names(paths: list[Path]) -> list[str]:
    """The names of the files to write: the stem of each path, with its suffix or folder added where
    several paths share a stem."""
    names = [path.stem for path in paths]
    for longer in (_with_ending, _with_folder, _with_both):
        counts = Counter(names)
        names = [
            longer(path) if counts[name] > 1 else name
            for path, name in zip(paths, names, strict=True)
        ]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise InputError(f"several files are called {name}; write them to different folders")
    return names


def _with_ending(path: Path) -> str:
    return path.stem + path.suffix.replace(".", "_")


def _with_folder(path: Path) -> str:
    return f"{path.absolute().parent.name}_{path.stem}"


def _with_both(path: Path) -> str:
    return f"{path.absolute().parent.name}_{_with_ending(path)}"


def _face(text: str) -> str | int:
    if text in ("speaking", "largest"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: expected speaking, largest or a number")
    return positive(text)


def _add_transcribe(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "transcribe",
        _transcribe,
        "Transcribe videos or sound files to text, timed words and subtitles",
        "avhubert-ext transcribe talk.mp4 --model model.safetensors",
        "avhubert-ext transcribe talks/*.mp4 --model model.safetensors --out transcripts",
        "avhubert-ext transcribe talk.mp4 --model model.safetensors --formats srt --face 1",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="Video or sound file")
    add_recognizer(parser)
    parser.add_argument(
        "--out",
        type=Path,
        help="Folder to write to; existing files are kept. Without it the text is printed",
    )
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=FORMATS,
        help="Formats to write; by default all with --out, otherwise txt",
    )
    parser.add_argument(
        "--modalities",
        choices=("both", "audio", "video"),
        help="Streams to use; by default all that both the model and the file have",
    )
    parser.add_argument(
        "--face",
        type=_face,
        default="speaking",
        help="Face to read if there are several: speaking (the lips move with the sound), "
        "largest, or N for the N-th largest",
    )
    parser.add_argument(
        "--mouth",
        action="store_true",
        help="Treat the videos as mouth regions, of any size, and skip face detection",
    )
    parser.add_argument(
        "--landmarks",
        type=Path,
        metavar="FILE",
        help="Face landmarks in AV-HuBERT's or Auto-AVSR's format, used instead of face detection",
    )
    parser.add_argument(
        "--max-seconds",
        type=positive,
        default=3600,
        metavar="SECONDS",
        help="Longest file to accept, in seconds; longer ones are rejected before they are read",
    )
    add_landmark_model(parser)
    parser.add_argument(
        "--beam",
        type=positive,
        help="Number of hypotheses in the beam search; by default what the model suggests",
    )
    parser.add_argument(
        "--ctc-weight",
        type=float,
        help="Weight of the CTC scores in the search, for models with a CTC layer",
    )
    add_device(parser)
    parser.add_argument("--threads", type=positive, help="Number of CPU threads")
