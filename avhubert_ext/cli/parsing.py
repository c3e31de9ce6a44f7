"""Building blocks that the parsers of all commands share."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

EXAMPLES = "examples:"


class HelpFormatter(argparse.HelpFormatter):
    """Shows defaults where there are any, short placeholders, and examples as they are written."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        no_value = default in (None, argparse.SUPPRESS) or default == [] or action.nargs == 0
        if no_value or not action.option_strings:
            return action.help
        values = default if isinstance(default, list | tuple) else [default]
        shown = " ".join(map(str, values)).replace("%", "%%")
        return f"{action.help} (default: {shown})"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        placeholders = {int: "N", positive: "N", float: "X", Path: "PATH"}
        if action.type in placeholders:
            return placeholders[action.type]
        return super()._get_default_metavar_for_optional(action)

    def _format_action(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._SubParsersAction):  # the commands alone, without a heading
            return "".join(map(self._format_action, action._get_subactions()))
        return super()._format_action(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(EXAMPLES):
            return text
        return super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"invalid float value: '(.*)'", r"\1: expected a number", message)
        message = re.sub(r"invalid \w+ value: '(.*)'", r"\1: expected a whole number", message)
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def command(
    commands: argparse._SubParsersAction,
    name: str,
    function: Callable[[argparse.Namespace], None],
    help: str,
    *examples: str,
) -> argparse.ArgumentParser:
    """Add a command.

    Args:
        commands: where to add it.
        name: the word that runs it.
        function: what it runs.
        help: a sentence without its period, like the help of every option.
        examples: command lines that show its use.

    Returns:
        The parser, for the options.
    """
    parser = commands.add_parser(
        name,
        help=help,
        description=f"{help}.",
        epilog=epilog(examples),
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(function=function)
    return parser


def group(
    commands: argparse._SubParsersAction,
    name: str,
    help: str,
    adders: Iterable[Callable[[argparse._SubParsersAction], None]],
    *examples: str,
) -> None:
    """Add a group of commands, which shows its help when no command follows.

    Args:
        commands: where to add it.
        name: the word that comes before each of its commands.
        help: a sentence without its period.
        adders: functions that add the commands.
        examples: command lines that show its use.
    """
    parser = commands.add_parser(
        name,
        help=help,
        description=f"{help}.",
        epilog=epilog(examples),
        formatter_class=HelpFormatter,
        add_help=False,
    )
    below, _ = subcommands(parser)
    for add in adders:
        add(below)
    # In the list of all commands a group shows its own.
    commands._choices_actions[-1].help = f"{help}: {', '.join(below.choices)}"
    parser.set_defaults(function=lambda args: parser.print_help())


def subcommands(
    parser: argparse.ArgumentParser,
) -> tuple[argparse._SubParsersAction, argparse._ArgumentGroup]:
    """Give a parser a list of commands, and below it `--help`, which it must not have yet.

    Returns:
        Where to add commands, and where to add other options.
    """
    below = parser.add_subparsers(title="commands", metavar="COMMAND")
    options = parser.add_argument_group("options")
    options.add_argument("-h", "--help", action="help", help="show this help message and exit")
    return below, options


def epilog(examples: Iterable[str]) -> str:
    """The end of a help text: its examples, one per line."""
    return "\n".join([EXAMPLES, *(f"  {line}" for line in examples)])


def members(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands below a parser by name; none for a command that is not a group."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def check_options(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """End with an error that names the nearest option if an option is unknown.

    Args:
        parser: the parser of a command.
        words: what follows the command.
    """
    known = [option for option in parser._option_string_actions if option.startswith("--")]
    for word in words:
        name = word.partition("=")[0]
        if name == "--":
            return
        if name.startswith("--") and not any(option.startswith(name) for option in known):
            near = difflib.get_close_matches(name, known, n=1)
            parser.error(f"unknown option {name}" + (f" (did you mean {near[0]}?)" if near else ""))


def positive(text: str) -> int:
    """A number of at least 1, the type of an option."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return number


def device(text: str) -> str:
    """The name of a device, the type of an option; `choose_device` checks whether it exists."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text}: expected auto, cpu, cuda, cuda:N, or mps")
    return text


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`, which is the same in every command."""
    parser.add_argument(
        "--device",
        type=device,
        default="auto",
        help="Device that PyTorch runs on: cpu, cuda, cuda:N, or mps; auto takes the first CUDA "
        "GPU, or the CPU if there is none; exported models always run on the CPU",
    )


def add_recognizer(parser: argparse.ArgumentParser) -> None:
    """Add the options of a recognizer for clips of any length."""
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        help="Checkpoint that `model convert` can read, or folder written by `export`",
    )
    parser.add_argument(
        "--dictionary",
        type=Path,
        help="File or folder with the model's subwords; needed only if they are neither in the "
        "checkpoint nor next to it",
    )
    parser.add_argument(
        "--longest",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="Longest segment to recognize in one piece; longer clips are split at pauses. Do not "
        "exceed the length of the training clips (about 4 for the tiny models here)",
    )


def add_landmark_model(parser: argparse.ArgumentParser) -> None:
    """Add the option of the face detector."""
    parser.add_argument(
        "--landmark-model",
        type=Path,
        metavar="TASK",
        help="Path of a face_landmarker.task, which mediapipe needs from version 0.10.22 on",
    )
