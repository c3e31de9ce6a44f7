"""Commands that make models of models."""

from __future__ import annotations

import argparse
from pathlib import Path

from avhubert_ext.cli.parsing import command

OUTPUT = "File to write: .safetensors, or .pt for fairseq"


def add_commands(commands: argparse._SubParsersAction) -> None:
    _add_convert(commands)
    _add_average(commands)
    _add_init(commands)
    _add_prune(commands)
    _add_export_sparse(commands)
    _add_sparse_report(commands)


def _convert(args: argparse.Namespace) -> None:
    from avhubert_ext.checkpoints.conversion import convert

    print(convert(args.input, args.output, half=args.half))


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "convert", _convert, "Convert models between safetensors, fairseq and s3prl files"
    )
    parser.add_argument(
        "input",
        type=Path,
        help="Model to read: .pt of fairseq, .safetensors, .ckpt or folder of s3prl, or .pth of "
        "Auto-AVSR",
    )
    parser.add_argument("output", type=Path, help=OUTPUT)
    parser.add_argument("--half", action="store_true", help="Store the weights as float16")


def _average(args: argparse.Namespace) -> None:
    from avhubert_ext.checkpoints.conversion import average

    print(average(args.inputs, args.output))


def _add_average(commands: argparse._SubParsersAction) -> None:
    parser = command(commands, "average", _average, "Average the weights of several checkpoints")
    parser.add_argument(
        "inputs", type=Path, nargs="+", help="Two or more checkpoints of one training run"
    )
    parser.add_argument("output", type=Path, help=OUTPUT)


def _init(args: argparse.Namespace) -> None:
    from avhubert_ext.checkpoints.start import start_file

    print(
        start_file(
            args.network,
            args.output,
            args.data,
            args.modality,
            args.frontend_checkpoint,
            args.recognizer_checkpoint,
            args.seed,
        )
    )


def _add_init(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "init", _init, "Make the file that the training of a lip reader starts from"
    )
    parser.add_argument("network", help="Size of the network: base-s, base-l, tiny, or tiny-s")
    parser.add_argument("output", type=Path, help="File to write, .safetensors")
    parser.add_argument(
        "--data", type=Path, required=True, help="Manifest folder whose subwords the model gets"
    )
    parser.add_argument(
        "--modality",
        choices=("video", "audio", "both"),
        default="video",
        help="Streams that the model takes",
    )
    parser.add_argument(
        "--frontend-checkpoint",
        type=Path,
        help="Checkpoint whose visual frontend is taken: of a word recognizer on LRW, of "
        "Auto-AVSR, or of a lip reader of this project",
    )
    parser.add_argument(
        "--recognizer-checkpoint",
        type=Path,
        help="Checkpoint of the same network whose weights are taken, except for those that "
        "belong to its subwords",
    )
    parser.add_argument("--seed", type=int, default=1, help="Seed of the random weights")


def _prune(args: argparse.Namespace) -> None:
    from avhubert_ext.checkpoints.conversion import prune

    print(prune(args.input, args.output, args.sparsity, args.weights))


def _add_prune(commands: argparse._SubParsersAction) -> None:
    parser = command(commands, "prune", _prune, "Prune the smallest weights of a model")
    parser.add_argument(
        "input",
        type=Path,
        help="Model whose weights are ranked; weights that it has pruned stay pruned",
    )
    parser.add_argument("output", type=Path, help=OUTPUT)
    parser.add_argument(
        "--sparsity",
        type=float,
        required=True,
        help="Share of the prunable weights that is pruned, in [0, 1)",
    )
    parser.add_argument(
        "--weights", type=Path, help="Checkpoint that the kept weights are taken from (rewinding)"
    )


def _export_sparse(args: argparse.Namespace) -> None:
    from avhubert_ext.checkpoints.conversion import export_sparse

    print(export_sparse(args.input, args.output, args.codebook))


def _add_export_sparse(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "export-sparse", _export_sparse, "Store a pruned or 8-bit model in a small file"
    )
    parser.add_argument(
        "input", type=Path, help="Pruned model to store; with --codebook also a dense one"
    )
    parser.add_argument("output", type=Path, help="File to write, .safetensors")
    parser.add_argument(
        "--codebook",
        action="store_true",
        help="Store each weight in one byte, with a codebook of 256 values (k-means) per tensor",
    )


def _sparse_report(args: argparse.Namespace) -> None:
    from avhubert_ext.reports.sparsity import sparse_report

    print(sparse_report(args.model, args.out))
    if args.out:
        print(f"\nwritten: {args.out}/sparsity.csv, .json, .png")


def _add_sparse_report(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "sparse-report", _sparse_report, "Show where the pruned weights of a model are"
    )
    parser.add_argument("model", type=Path, help="Pruned model of any kind, or a mask file")
    parser.add_argument("--out", type=Path, help="Folder to write a CSV, JSON and a heat map to")
