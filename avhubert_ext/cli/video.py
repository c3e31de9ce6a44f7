"""Commands that make mouth regions of any video."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from avhubert_ext.cli.parsing import add_landmark_model, command, positive


def add_commands(commands: argparse._SubParsersAction) -> None:
    _add_prepare_video(commands)


def _prepare_video(args: argparse.Namespace) -> None:
    from avhubert_ext.data.corpora import corpus_sources, plain_videos
    from avhubert_ext.errors import InputError
    from avhubert_ext.mouth.media import Limits
    from avhubert_ext.mouth.prepare_video import Settings, prepare_video

    if args.layout is None:
        sources = plain_videos(args.inputs)
    elif len(args.inputs) > 1:
        raise InputError(f"--layout {args.layout} takes one folder, {len(args.inputs)} are named")
    elif args.face == "all":
        raise InputError("--face all: a transcript belongs to one speaker; leave out --layout")
    else:
        sources = corpus_sources(args.layout, args.inputs[0])
    limits = Limits(seconds=args.max_seconds)
    settings = Settings(
        args.face, args.mouth, args.landmarks, args.landmark_model, limits, args.sheets
    )
    done = prepare_video(sources, args.out, settings, args.workers, args.shard)
    print(
        f"{done.videos - done.failed} videos, {done.seconds / 60:.1f} min of mouth regions in "
        f"{args.out}" + (f"; look at {args.out / 'sheets'}" if args.sheets else "")
    )
    if done.warned:
        print(f"{done.warned} of them with warnings: see the report and the sheets")
    if done.failed:
        raise InputError(
            f"{done.failed} of {done.videos} videos failed; the report in {args.out} names them "
            "and why; run the same command again to try those again"
        )


def _add_prepare_video(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "prepare-video", _prepare_video, "any video or corpus -> 96x96 mouth regions"
    )
    parser.add_argument("inputs", type=Path, nargs="+", metavar="IN", help="videos or folders")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--layout",
        choices=("lrs3", "lrs2", "grid", "folder"),
        help="IN is a corpus laid out so (folder: CLIP.* with plain CLIP.txt): transcripts are "
        "taken over, and `prepare` reads OUT",
    )
    parser.add_argument(
        "--face",
        type=_face,
        default="largest",
        help="largest, speaking (moves with the sound), N for the N-th largest, or all",
    )
    parser.add_argument(
        "--mouth", action="store_true", help="IN holds mouth regions already, of any size"
    )
    parser.add_argument(
        "--landmarks",
        type=Path,
        help="landmark files of AV-HuBERT or Auto-AVSR (.pkl, .npy, .npz) instead of mediapipe: a "
        "folder with the paths of IN, or for one video the file",
    )
    add_landmark_model(parser)
    parser.add_argument(
        "--max-seconds", type=positive, default=3600, help="longest video that is taken"
    )
    parser.add_argument(
        "--sheets",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a picture of each clip to look at, some 60 kB",
    )
    parser.add_argument("--shard", type=_shard, default="1/1", help="I/N: only every N-th video")
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="processes")


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
