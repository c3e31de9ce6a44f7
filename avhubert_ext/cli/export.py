"""Commands that make models for a device."""

from __future__ import annotations

import argparse
from pathlib import Path

from avhubert_ext.cli.parsing import command


def add_commands(commands: argparse._SubParsersAction) -> None:
    _add_export(commands)


def _export(args: argparse.Namespace) -> None:
    from avhubert_ext.export.folder import export

    print(export(args.model, args.out, args.dictionary))


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "export", _export, "a recogniser as graphs for a device, without PyTorch"
    )
    parser.add_argument("model", type=Path, help="a recogniser of any kind that `convert` reads")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument(
        "--dictionary",
        type=Path,
        help="folder or file of its subwords, where the model does not tell them",
    )
