"""What the commands' parsers share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def command(
    commands: argparse._SubParsersAction,
    name: str,
    function: Callable[[argparse.Namespace], None],
    help: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(function=function)
    return parser


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return number


def add_recognizer(parser: argparse.ArgumentParser) -> None:
    """The options of what recognises clips of any length."""
    parser.add_argument(
        "--model", type=Path, required=True, help="checkpoint of any kind, or folder of `export`"
    )
    parser.add_argument(
        "--dictionary",
        type=Path,
        help="its subwords, a file or folder; by default those it names or that lie beside it",
    )
    parser.add_argument(
        "--longest",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="recognised at once, no more than the clips that the model was trained on had (about "
        "4 for the tiny ones here); longer clips are cut at pauses",
    )


def add_landmark_model(parser: argparse.ArgumentParser) -> None:
    """The option of what looks for faces."""
    parser.add_argument(
        "--landmark-model",
        type=Path,
        metavar="TASK",
        help="a face_landmarker.task, which versions of mediapipe after 0.10.21 need",
    )
