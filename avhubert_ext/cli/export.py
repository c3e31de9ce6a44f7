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
        commands, "export", _export, "a recogniser as graphs for a device, without PyTorch"
    )
    parser.add_argument("model", type=Path, help="a recogniser of any kind that `convert` reads")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument(
        "--format",
        choices=("onnx", "openvino"),
        default="onnx",
        help="of the graphs: what runs them",
    )
    parser.add_argument("--int8", action="store_true", help="linear layers in 8 bits")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="DATA",
        help="manifest folder whose clips show how to put the frontends in 8 bits, too (onnx)",
    )
    parser.add_argument("--split", default="train", help="of --calibrate")
    parser.add_argument(
        "--dictionary",
        type=Path,
        help="folder or file of its subwords, where the model does not tell them",
    )
