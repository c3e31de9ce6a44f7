"""What the commands' parsers share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path


class HelpFormatter(argparse.HelpFormatter):
    """Adds the default to the help of an option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        no_value = default in (None, argparse.SUPPRESS) or default == [] or action.nargs == 0
        if no_value or not action.option_strings:
            return action.help
        values = default if isinstance(default, list | tuple) else [default]
        shown = " ".join(map(str, values)).replace("%", "%%")
        return f"{action.help} (default: {shown})"


def command(
    commands: argparse._SubParsersAction,
    name: str,
    function: Callable[[argparse.Namespace], None],
    help: str,
) -> argparse.ArgumentParser:
    """A parser for one more command. help: a sentence without its period, as of every option."""
    parser = commands.add_parser(
        name, help=help, description=f"{help}.", formatter_class=HelpFormatter
    )
    parser.set_defaults(function=function)
    return parser


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return number


def device(text: str) -> str:
    """The name of a device; `choose_device` checks whether it is there."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text}: expected auto, cpu, cuda, cuda:N, or mps")
    return text


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option of where PyTorch computes, the same in every command."""
    parser.add_argument(
        "--device",
        type=device,
        default="auto",
        help="Device that PyTorch uses: cpu, cuda, cuda:N, or mps; auto is the first CUDA GPU, or "
        "the CPU if there is none; exported models always run on the CPU",
    )


def add_recognizer(parser: argparse.ArgumentParser) -> None:
    """The options of what recognizes clips of any length."""
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        help="Checkpoint of any kind that `convert` reads, or a folder made by `export`",
    )
    parser.add_argument(
        "--dictionary",
        type=Path,
        help="File or folder with the subwords of the model; needed only if the model does not "
        "contain them and they are not beside it",
    )
    parser.add_argument(
        "--longest",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="Longest piece that is recognized at once; longer clips are cut at pauses. Use no "
        "more than the length of the training clips (about 4 for the tiny models here)",
    )


def add_landmark_model(parser: argparse.ArgumentParser) -> None:
    """The option of what looks for faces."""
    parser.add_argument(
        "--landmark-model",
        type=Path,
        metavar="TASK",
        help="Path of a face_landmarker.task, which mediapipe needs from 0.10.22 on",
    )
