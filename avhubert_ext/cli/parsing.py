"""What the commands' parsers share."""

from __future__ import annotations

import argparse
from collections.abc import Callable


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


def add_longest(parser: argparse.ArgumentParser) -> None:
    """The option of what recognises clips of any length."""
    parser.add_argument(
        "--longest",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="recognised at once, no more than the clips that the model was trained on had (about "
        "4 for the tiny ones here); longer clips are cut at pauses",
    )
