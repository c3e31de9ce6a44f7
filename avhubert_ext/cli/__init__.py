"""`avhubert-ext`: the command line of the library.

Every command is a function that imports what it needs when it runs, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import io
import os
import sys

from avhubert_ext.cli import benchmarks, data, evaluation, export, models, serve, transcribe, video
from avhubert_ext.errors import InputError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="avhubert-ext",
        description="Small, fast, noise-robust audio-visual speech recognition.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (data, video, models, export, benchmarks, evaluation, transcribe, serve):
        module.add_commands(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names that are not UTF-8
    args = build_parser().parse_args(argv)
    try:
        args.function(args)
        sys.stdout.flush()
    except InputError as error:
        print(f"avhubert-ext: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"avhubert-ext: error: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("avhubert-ext: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    return 0
