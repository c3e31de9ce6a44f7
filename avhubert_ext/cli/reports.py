"""Commands that turn results into tables and plots."""

from __future__ import annotations

import argparse
from pathlib import Path

from avhubert_ext.cli.parsing import command


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands."""
    _add_decoded(commands)
    _add_seeds(commands)
    _add_pruning(commands)
    _add_frontier(commands)
    _add_sparsity(commands)


def _decoded(args: argparse.Namespace) -> None:
    from avhubert_ext.reports.decoded import report

    models = [(name, Path(checkpoint), Path(decoded)) for name, checkpoint, decoded in args.model]
    print(report(models, args.out))
    print(f"\nwritten: {args.out / 'results.json'}, {args.out / 'results.png'}")


def _add_decoded(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "decoded",
        _decoded,
        "Report the results of fairseq-generate as a table, JSON and a plot",
        "avhubert-ext report decoded --out report --model student student.pt decoded/student",
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder to write the report to")
    parser.add_argument(
        "--model",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "CHECKPOINT", "DECODED"),
        help="Model to report; DECODED holds the results of fairseq-generate in one folder per "
        "condition. Repeat the option for more models",
    )


def _seeds(args: argparse.Namespace) -> None:
    from avhubert_ext.reports.seeds import report

    decoded = [(name, Path(folder)) for name, folder in args.model]
    print(report(decoded, args.distillation, args.out))
    print(f"\nwritten: {args.out / 'compare.json'}, {args.out / 'compare.png'}")


def _add_seeds(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "seeds",
        _seeds,
        "Compare models that were trained with several seeds each",
        "avhubert-ext report seeds --out report --model student decoded/student-1 \\\n"
        "    --model student decoded/student-2 --model scratch decoded/scratch-1",
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder to write the report to")
    parser.add_argument(
        "--model",
        nargs=2,
        action="append",
        required=True,
        metavar=("NAME", "DECODED"),
        help="One training run, with DECODED as for `report decoded`; repeat the option, with the "
        "same NAME for runs of the same model",
    )
    parser.add_argument(
        "--distillation",
        nargs="*",
        type=Path,
        default=[],
        metavar="DIR",
        help="Experiment folders of s3prl whose training curves are plotted",
    )


def _pruning(args: argparse.Namespace) -> None:
    from avhubert_ext.reports.pruning import report

    print(report(args.evaluation, args.out, args.last))
    print(f"\nwritten: {args.out}/pruning.md, .csv, pruning_*.png")


def _add_pruning(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "pruning",
        _pruning,
        "Report a pruning sweep, finished or not, as tables and plots",
        "avhubert-ext report pruning --evaluation evaluation --out report",
    )
    parser.add_argument(
        "--evaluation",
        type=Path,
        required=True,
        metavar="DIR",
        help="Folder written by `evaluate`, with models named dense, METHOD-SPARSITY (for example "
        "lrr-iterative-50), or rewind-T-SPARSITY",
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder to write the report to")
    parser.add_argument(
        "--last",
        type=int,
        metavar="T",
        help="Number of the dense model's last checkpoint, which one-shot LRR rewinds to",
    )


def _frontier(args: argparse.Namespace) -> None:
    from avhubert_ext.reports.frontier import frontier

    print(frontier(args.evaluation, args.out, args.condition))
    print(f"\nwritten: {args.out}/frontier.md, .csv, .png")


def _add_frontier(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "frontier",
        _frontier,
        "Plot the accuracy of evaluated models against their file size",
        "avhubert-ext report frontier --evaluation evaluation --out report",
        "avhubert-ext report frontier --evaluation a b --out report --condition babble_0dB",
    )
    parser.add_argument(
        "--evaluation",
        nargs="+",
        type=Path,
        required=True,
        metavar="DIR",
        help="Folders written by `evaluate` for the same test set; only models stored as "
        ".safetensors have a size",
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder to write the report to")
    parser.add_argument(
        "--condition",
        default="clean",
        help="Condition to plot, for example babble_0dB or block_level3",
    )


def _sparsity(args: argparse.Namespace) -> None:
    from avhubert_ext.reports.sparsity import sparse_report

    print(sparse_report(args.model, args.out))
    if args.out:
        print(f"\nwritten: {args.out}/sparsity.csv, .json, .png")


def _add_sparsity(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "sparsity",
        _sparsity,
        "Show where the pruned weights of a model are, layer by layer",
        "avhubert-ext report sparsity pruned.safetensors",
        "avhubert-ext report sparsity pruned.pt --out report",
    )
    parser.add_argument(
        "model", type=Path, help="Pruned model that `model convert` can read, or a mask file"
    )
    parser.add_argument("--out", type=Path, help="Folder to write CSV, JSON and a heat map to")
