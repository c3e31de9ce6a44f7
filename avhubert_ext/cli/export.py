"""`export`: a recognizer that runs without PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path

from avhubert_ext.cli.parsing import command


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    _add_export(commands)


def _export(args: argparse.Namespace) -> None:
    from avhubert_ext.export.folder import ExportConfig, export

    config = ExportConfig(args.format, args.int8, args.calibrate, args.split)
    print(export(args.model, args.out, config, args.dictionary))


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "export",
        _export,
        "Export a recognizer as graphs that run without PyTorch",
        "avhubert-ext export model.safetensors exported",
        "avhubert-ext export model.safetensors exported --int8 --calibrate data",
    )
    parser.add_argument("model", type=Path, help="Recognizer that `model convert` can read")
    parser.add_argument("out", type=Path, help="Folder to write the graphs to")
    parser.add_argument(
        "--format",
        choices=("onnx", "openvino"),
        default="onnx",
        help="Runtime to write the graphs for",
    )
    parser.add_argument("--int8", action="store_true", help="Store the linear layers in 8 bits")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="DATA",
        help="Manifest folder whose clips calibrate the frontends, so that these use 8 bits too; "
        "for onnx with --int8",
    )
    parser.add_argument(
        "--split", default="train", help="Name of the manifest in the --calibrate folder"
    )
    parser.add_argument(
        "--dictionary",
        type=Path,
        help="File or folder with the subwords, if the model does not contain them",
    )
