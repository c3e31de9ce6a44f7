"""Commands that make models for a device."""

from __future__ import annotations

import argparse
from pathlib import Path

from avhubert_ext.cli.parsing import command


def add_commands(commands: argparse._SubParsersAction) -> None:
    _add_export(commands)


def _export(args: argparse.Namespace) -> None:
    from avhubert_ext.export.folder import ExportConfig, export

    config = ExportConfig(args.format, args.int8, args.calibrate, args.split)
    print(export(args.model, args.out, config, args.dictionary))


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "export", _export, "Export a recognizer as graphs that run without PyTorch"
    )
    parser.add_argument("model", type=Path, help="Recognizer of any kind that `convert` reads")
    parser.add_argument("out", type=Path, help="Folder to write the graphs to")
    parser.add_argument(
        "--format",
        choices=("onnx", "openvino"),
        default="onnx",
        help="Runtime that the graphs are for",
    )
    parser.add_argument("--int8", action="store_true", help="Store the linear layers in 8 bits")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="DATA",
        help="Manifest folder whose clips calibrate the frontends, so that they are in 8 bits too; "
        "for onnx with --int8",
    )
    parser.add_argument(
        "--split", default="train", help="Name of the manifest that --calibrate takes clips from"
    )
    parser.add_argument(
        "--dictionary",
        type=Path,
        help="Folder or file with the subwords, if the model does not contain them",
    )
