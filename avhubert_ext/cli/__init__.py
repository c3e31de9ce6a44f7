"""`avhubert-ext`: the command line of the library.

Every command is a function that imports what it needs when it runs, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import difflib
import io
import os
import sys

from avhubert_ext import __version__
from avhubert_ext.cli import (
    benchmarks,
    data,
    evaluation,
    export,
    models,
    reports,
    serve,
    transcribe,
    video,
)
from avhubert_ext.cli.moved import MOVED, current
from avhubert_ext.cli.parsing import (
    HelpFormatter,
    Parser,
    check_options,
    epilog,
    group,
    members,
    subcommands,
)
from avhubert_ext.errors import InputError

PROGRAM = "avhubert-ext"
MODEL = "model.safetensors"


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(
        prog=PROGRAM,
        description="Small, fast, noise-robust audio-visual speech recognition. "
        "Each COMMAND and each group of commands has its own --help.",
        epilog=epilog(
            [
                f"{PROGRAM} transcribe talk.mp4 --model {MODEL}",
                f"{PROGRAM} serve --model {MODEL}",
                f"{PROGRAM} data prepare --help",
            ]
        ),
        formatter_class=HelpFormatter,
        add_help=False,
    )
    commands, options = subcommands(parser)
    version = f"{PROGRAM} {__version__}"
    options.add_argument("--version", action="version", version=version)
    for module in (transcribe, serve, evaluation, export):
        module.add_commands(commands)
    group(
        commands,
        "data",
        "Make and prepare data",
        (data.add_commands, video.add_commands),
        f"{PROGRAM} data synth --out corpus",
        f"{PROGRAM} data prepare --corpus corpus --out data --vocabulary 100",
        f"{PROGRAM} data video talks mouths",
    )
    group(
        commands,
        "model",
        "Convert, shrink and inspect models",
        (models.add_commands,),
        f"{PROGRAM} model convert checkpoint_best.pt {MODEL}",
        f"{PROGRAM} model complexity --preset teacher-base student-7",
    )
    group(
        commands,
        "report",
        "Turn results into tables and plots",
        (reports.add_commands,),
        f"{PROGRAM} report frontier --evaluation evaluation --out report",
        f"{PROGRAM} report sparsity pruned.safetensors",
    )
    group(
        commands,
        "benchmark",
        "Measure speed and size",
        (benchmarks.add_commands,),
        f"{PROGRAM} benchmark encoder --preset teacher-base student-7",
        f"{PROGRAM} benchmark runtime --model {MODEL}",
    )
    parser.set_defaults(function=lambda args: parser.print_help())
    return parser


def parse(words: list[str]) -> argparse.Namespace:
    """Parse a command line; old names are understood, unknown ones get a suggestion.

    Args:
        words: the command line without the program.

    Returns:
        The options of the command, and its `function`.

    Raises:
        SystemExit: if the command line is wrong, with status 2.
    """
    words, note = current(words)
    if note:
        print(f"{PROGRAM}: {note}", file=sys.stderr)
    root = build_parser()
    parser, path = root, []
    while words[len(path) :] and (below := members(parser)):
        word = words[len(path)]
        if word.startswith("-"):
            break
        if word not in below:
            name = " ".join([*path, word])
            parser.error(f"unknown command '{name}'{suggestion(root, path, word)}")
        parser = below[word]
        path.append(word)
    check_options(parser, words[len(path) :])
    return root.parse_args(words)


def suggestion(root: argparse.ArgumentParser, path: list[str], word: str) -> str:
    """` (did you mean 'data prepare'?)` for the command nearest to an unknown word, or nothing.

    Args:
        root: the parser of all commands.
        path: the group that the word was in; its commands are preferred.
        word: the unknown word.
    """
    groups = members(root)
    known = {old: [" ".join(new)] for old, new in MOVED.items()}  # word -> names of commands
    for name in path or groups:
        for last in members(groups[name]):
            known.setdefault(last, []).append(f"{name} {last}")
    known |= {} if path else {name: [name] for name in groups}
    near = difflib.get_close_matches(word, known, n=1)
    if not near:
        return ""
    found = " or ".join(f"'{name}'" for name in dict.fromkeys(known[near[0]]))
    return f" (did you mean {found}?)"


def main(argv: list[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: the command line without the program, by default that of this process.

    Returns:
        The exit status: 0, 1 after an error, 130 after an interrupt.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names that are not UTF-8
    args = parse(list(sys.argv[1:] if argv is None else argv))
    try:
        args.function(args)
        sys.stdout.flush()
    except InputError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, for example `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"{PROGRAM}: error: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    return 0
