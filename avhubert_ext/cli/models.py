"""Commands that convert, shrink and inspect models."""

from __future__ import annotations

import argparse
from pathlib import Path

from avhubert_ext.cli.parsing import command

OUTPUT = "File to write: .safetensors, or .pt for fairseq"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands."""
    _add_convert(commands)
    _add_average(commands)
    _add_init(commands)
    _add_prune(commands)
    _add_compress(commands)
    _add_complexity(commands)


def _convert(args: argparse.Namespace) -> None:
    from avhubert_ext.checkpoints.conversion import convert

    print(convert(args.input, args.output, half=args.half))


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "convert",
        _convert,
        "Convert models between safetensors, fairseq and s3prl files",
        "avhubert-ext model convert checkpoint_best.pt model.safetensors",
        "avhubert-ext model convert result/pretrain/distill student.safetensors --half",
    )
    parser.add_argument(
        "input",
        type=Path,
        help="Model to read: .safetensors, .pt of fairseq, .ckpt or experiment folder of s3prl, "
        "or .pth of Auto-AVSR",
    )
    parser.add_argument("output", type=Path, help=OUTPUT)
    parser.add_argument("--half", action="store_true", help="Store the weights as float16")


def _average(args: argparse.Namespace) -> None:
    from avhubert_ext.checkpoints.conversion import average

    print(average(args.inputs, args.output))


def _add_average(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "average",
        _average,
        "Average the weights of several checkpoints",
        "avhubert-ext model average checkpoint8.pt checkpoint9.pt checkpoint10.pt mean.pt",
    )
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
        commands,
        "init",
        _init,
        "Write the initial model that the training of a lip reader starts from",
        "avhubert-ext model init vsr-tiny start.safetensors --data data",
        "avhubert-ext model init vsr-base-s start.safetensors --data data \\\n"
        "    --frontend-checkpoint lrw_resnet18.pth.tar",
    )
    parser.add_argument(
        "network", help="Network preset: vsr-base-s, vsr-base-l, vsr-tiny, or vsr-tiny-s"
    )
    parser.add_argument("output", type=Path, help="File to write, .safetensors")
    parser.add_argument(
        "--data", type=Path, required=True, help="Manifest folder with the subwords of the model"
    )
    parser.add_argument(
        "--modality",
        choices=("video", "audio", "both"),
        default="video",
        help="Input streams of the model",
    )
    parser.add_argument(
        "--frontend-checkpoint",
        type=Path,
        help="Checkpoint that supplies the visual frontend: an LRW word recognizer, Auto-AVSR, or "
        "a lip reader of this project",
    )
    parser.add_argument(
        "--recognizer-checkpoint",
        type=Path,
        help="Checkpoint of the same network that supplies all weights but those tied to its "
        "subwords",
    )
    parser.add_argument("--seed", type=int, default=1, help="Seed of the random weights")


def _prune(args: argparse.Namespace) -> None:
    from avhubert_ext.checkpoints.conversion import prune

    print(prune(args.input, args.output, args.sparsity, args.weights))


def _add_prune(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "prune",
        _prune,
        "Prune the smallest weights of a model",
        "avhubert-ext model prune model.safetensors half.safetensors --sparsity 0.5",
        "avhubert-ext model prune trained.pt ticket.pt --sparsity 0.5 --weights start.safetensors",
    )
    parser.add_argument(
        "input",
        type=Path,
        help="Model whose weights are ranked; weights that are already pruned stay pruned",
    )
    parser.add_argument("output", type=Path, help=OUTPUT)
    parser.add_argument(
        "--sparsity",
        type=float,
        required=True,
        help="Share of the prunable weights to prune, in [0, 1)",
    )
    parser.add_argument(
        "--weights", type=Path, help="Checkpoint that the kept weights are rewound to"
    )


def _compress(args: argparse.Namespace) -> None:
    from avhubert_ext.checkpoints.conversion import export_sparse

    print(export_sparse(args.input, args.output, args.codebook))


def _add_compress(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "compress",
        _compress,
        "Store a pruned or 8-bit model in a small file",
        "avhubert-ext model compress pruned.pt small.safetensors",
        "avhubert-ext model compress model.safetensors small.safetensors --codebook",
    )
    parser.add_argument(
        "input", type=Path, help="Pruned model to store, or a dense one with --codebook"
    )
    parser.add_argument("output", type=Path, help="File to write, .safetensors")
    parser.add_argument(
        "--codebook",
        action="store_true",
        help="Store each weight in one byte, with a codebook of 256 values per tensor (k-means)",
    )


def _complexity(args: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    from avhubert_ext.evaluation.complexity import checkpoint_cost, preset_cost, text_table
    from avhubert_ext.models.presets import TABLE_1

    if args.checkpoint:
        costs = [checkpoint_cost(path) for path in args.checkpoint]
    else:
        costs = [preset_cost(name) for name in args.preset or TABLE_1]
    print(
        json.dumps([asdict(cost) for cost in costs], indent=2) if args.json else text_table(costs)
    )


def _add_complexity(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "complexity",
        _complexity,
        "Count parameters and FLOPs per frame, next to the papers' figures",
        "avhubert-ext model complexity",
        "avhubert-ext model complexity --preset teacher-base student-7 vsr-base-s",
        "avhubert-ext model complexity --checkpoint model.safetensors --json",
    )
    models = parser.add_mutually_exclusive_group()
    models.add_argument(
        "--preset",
        nargs="+",
        metavar="NAME",
        help="Presets to count: teacher-base, student-1 to student-7, vsr-base-s, vsr-base-l, or a "
        "tiny variant such as student-tiny-7; by default all of paper A's Table 1",
    )
    models.add_argument(
        "--checkpoint", nargs="+", type=Path, metavar="FILE", help="Model files to count"
    )
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table")
