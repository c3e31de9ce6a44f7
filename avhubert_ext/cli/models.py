"""Commands that make models of models."""

from __future__ import annotations

import argparse
from pathlib import Path

from avhubert_ext.cli.parsing import command


def add_commands(commands: argparse._SubParsersAction) -> None:
    _add_convert(commands)
    _add_average(commands)
    _add_init(commands)
    _add_prune(commands)
    _add_export_sparse(commands)
    _add_sparse_report(commands)


def _convert(args: argparse.Namespace) -> None:
    from avhubert_ext.models.conversion import convert

    print(convert(args.input, args.output, half=args.half))


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "convert", _convert, "convert models between safetensors, fairseq and s3prl files"
    )
    parser.add_argument(
        "input", type=Path, help=".pt, .safetensors, s3prl .ckpt or folder, Auto-AVSR .pth"
    )
    parser.add_argument("output", type=Path, help=".safetensors, or .pt for fairseq")
    parser.add_argument("--half", action="store_true", help="store the weights as float16")


def _average(args: argparse.Namespace) -> None:
    from avhubert_ext.models.conversion import average

    print(average(args.inputs, args.output))


def _add_average(commands: argparse._SubParsersAction) -> None:
    parser = command(commands, "average", _average, "mean of the weights of several checkpoints")
    parser.add_argument("inputs", type=Path, nargs="+", help="checkpoints of one run, two or more")
    parser.add_argument("output", type=Path, help=".safetensors, or .pt for fairseq")


def _init(args: argparse.Namespace) -> None:
    from avhubert_ext.models.start import start_file

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
    parser = command(commands, "init", _init, "the file that a lip reader's training starts from")
    parser.add_argument("network", help="base-s, base-l, tiny, tiny-s")
    parser.add_argument("output", type=Path, help=".safetensors")
    parser.add_argument("--data", type=Path, required=True, help="manifest folder: its subwords")
    parser.add_argument("--modality", choices=("video", "audio", "both"), default="video")
    parser.add_argument("--frontend-checkpoint", type=Path, help="of an LRW recogniser, Auto-AVSR")
    parser.add_argument(
        "--recognizer-checkpoint", type=Path, help="all but what belongs to its subwords"
    )
    parser.add_argument("--seed", type=int, default=1)


def _prune(args: argparse.Namespace) -> None:
    from avhubert_ext.models.conversion import prune

    print(prune(args.input, args.output, args.sparsity, args.weights))


def _add_prune(commands: argparse._SubParsersAction) -> None:
    parser = command(commands, "prune", _prune, "prune a model, the smallest weights of all")
    parser.add_argument(
        "input", type=Path, help="model whose weights are ranked; what it lacks stays pruned"
    )
    parser.add_argument("output", type=Path, help=".safetensors, or .pt for fairseq")
    parser.add_argument(
        "--sparsity", type=float, required=True, help="of the prunable weights, in [0, 1)"
    )
    parser.add_argument(
        "--weights", type=Path, help="checkpoint that the kept weights are rewound to"
    )


def _export_sparse(args: argparse.Namespace) -> None:
    from avhubert_ext.models.conversion import export_sparse

    print(export_sparse(args.input, args.output, args.codebook))


def _add_export_sparse(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "export-sparse", _export_sparse, "store a pruned model small, or one in 8 bits"
    )
    parser.add_argument("input", type=Path, help="a pruned model; a dense one with --codebook")
    parser.add_argument("output", type=Path, help=".safetensors")
    parser.add_argument(
        "--codebook",
        action="store_true",
        help="a byte a weight: codebooks of 256 values a tensor, by k-means",
    )


def _sparse_report(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.sparse_report import sparse_report

    print(sparse_report(args.model, args.out))
    if args.out:
        print(f"\nwritten: {args.out}/sparsity.csv, .json, .png")


def _add_sparse_report(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "sparse-report", _sparse_report, "where the pruned weights of a model are"
    )
    parser.add_argument("model", type=Path, help="a pruned model of any kind, or a mask")
    parser.add_argument("--out", type=Path, help="folder for CSV, JSON and a heat map")
