"""`serve`: a web page to try a recognizer on."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from avhubert_ext.cli.parsing import (
    add_device,
    add_landmark_model,
    add_recognizer,
    command,
    positive,
)
from avhubert_ext.errors import InputError


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    _add_serve(commands)


def _serve(args: argparse.Namespace) -> None:
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(f"{error.name} is missing: pip install 'avhubert-ext[serve]'") from None
    from avhubert_ext.recognizers.base import Recognizer
    from avhubert_ext.serve.limits import ServeLimits
    from avhubert_ext.serve.server import serve

    limits = ServeLimits(args.max_mb, args.max_seconds, args.timeout)
    recognizer = partial(
        Recognizer.from_file,
        args.model,
        dictionary=args.dictionary,
        device=args.device,
        threads=args.threads,
    )
    try:
        model = "/".join(args.model.resolve().parts[-2:])
        serve(
            recognizer,
            model,
            host=args.host,
            port=args.port,
            noise=args.noise,
            longest=args.longest,
            landmark_model=args.landmark_model,
            limits=limits,
        )
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)


def _add_serve(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "serve",
        _serve,
        "Serve a local web page that transcribes videos or the camera",
        "avhubert-ext serve --model model.safetensors",
        "avhubert-ext serve --model exported --port 8080 --max-seconds 30",
    )
    add_recognizer(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="Address to listen on; 0.0.0.0 makes the page reachable from other machines",
    )
    parser.add_argument(
        "--port", type=_port, default=8000, help="Port to listen on; 0 picks a free one"
    )
    parser.add_argument(
        "--max-mb", type=positive, default=50, help="Largest upload to accept, in megabytes"
    )
    parser.add_argument(
        "--max-seconds", type=positive, default=60, help="Longest clip to accept, in seconds"
    )
    parser.add_argument(
        "--timeout", type=positive, default=180, help="Time limit for one clip, in seconds"
    )
    parser.add_argument(
        "--noise",
        type=Path,
        metavar="FILE",
        help="Sound file to add as noise; by default babble made from the clip's own speech",
    )
    add_landmark_model(parser)
    add_device(parser)
    parser.add_argument("--threads", type=positive, help="Number of CPU threads")


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 65536:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 to 65535")
    return number
