"""`data video`: mouth regions from any video."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from avhubert_ext.cli.parsing import add_landmark_model, command, positive


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    _add_video(commands)


def _video(args: argparse.Namespace) -> None:
    from avhubert_ext.data.media import MediaLimits
    from avhubert_ext.errors import InputError
    from avhubert_ext.preparation.corpora import corpus_sources, plain_videos
    from avhubert_ext.preparation.video import Settings, prepare_video

    if args.layout is None:
        sources = plain_videos(args.inputs)
    elif len(args.inputs) > 1:
        raise InputError(f"--layout {args.layout} expects one folder, got {len(args.inputs)}")
    elif args.face == "all":
        raise InputError("--face all: a transcript belongs to one speaker; omit --layout")
    else:
        sources = corpus_sources(args.layout, args.inputs[0])
    limits = MediaLimits(seconds=args.max_seconds)
    settings = Settings(
        args.face, args.mouth, args.landmarks, args.landmark_model, limits, args.sheets
    )
    done = prepare_video(sources, args.out, settings, args.workers, args.shard)
    print(
        f"{done.videos - done.failed} videos, {done.seconds / 60:.1f} min of mouth regions in "
        f"{args.out}" + (f"; look at {args.out / 'sheets'}" if args.sheets else "")
    )
    if done.warned:
        print(f"{done.warned} of them with warnings; see the report and the sheets")
    if done.failed:
        raise InputError(
            f"{done.failed} of {done.videos} videos failed; the report in {args.out} lists them "
            "with the reasons; run the same command again to retry them"
        )


def _add_video(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "video",
        _video,
        "Cut 96x96 mouth regions out of any video or corpus",
        "avhubert-ext data video talk.mp4 mouths",
        "avhubert-ext data video lrs3 mouths --layout lrs3 --landmarks landmarks",
    )
    parser.add_argument(
        "inputs", type=Path, nargs="+", metavar="IN", help="Videos or folders of videos"
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="Folder to write the mouth regions to"
    )
    parser.add_argument(
        "--layout",
        choices=("lrs3", "lrs2", "grid", "folder"),
        help="Layout of IN if it is a corpus (folder: each CLIP.* has a plain CLIP.txt); its "
        "transcripts are copied, so that `data prepare` can read OUT",
    )
    parser.add_argument(
        "--face",
        type=_face,
        default="largest",
        help="Face to use if there are several: largest, speaking (the lips move with the sound), "
        "N for the N-th largest, or all",
    )
    parser.add_argument(
        "--mouth",
        action="store_true",
        help="Treat IN as mouth regions, of any size, and skip face detection",
    )
    parser.add_argument(
        "--landmarks",
        type=Path,
        help="Landmarks in AV-HuBERT's or Auto-AVSR's format (.pkl, .npy, .npz), used instead of "
        "mediapipe: a folder laid out like IN, or one file for one video",
    )
    add_landmark_model(parser)
    parser.add_argument(
        "--max-seconds",
        type=positive,
        default=3600,
        metavar="SECONDS",
        help="Longest video to accept, in seconds",
    )
    parser.add_argument(
        "--sheets",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Write a picture of each clip for visual inspection, about 60 kB",
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        default="1/1",
        metavar="I/N",
        help="Process only part I of N, that is every N-th video",
    )
    parser.add_argument(
        "--workers", type=positive, default=os.cpu_count(), help="Number of processes"
    )


def _face(text: str) -> str | int:
    if text in ("largest", "speaking", "all"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: expected largest, speaking, all or a number")
    return positive(text)


def _shard(text: str) -> tuple[int, int]:
    number, slash, shards = text.partition("/")
    if not (slash and number.isdigit() and shards.isdigit() and 1 <= int(number) <= int(shards)):
        raise argparse.ArgumentTypeError(f"{text}: expected I/N with I from 1 to N")
    return int(number), int(shards)
