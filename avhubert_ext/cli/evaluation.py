"""Commands that measure and compare word error rates."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from avhubert_ext.cli.parsing import add_device, command, positive


def add_commands(commands: argparse._SubParsersAction) -> None:
    _add_evaluate(commands)
    _add_report(commands)
    _add_compare(commands)
    _add_pruning_report(commands)
    _add_frontier(commands)


def _evaluate(args: argparse.Namespace) -> None:
    import torch

    from avhubert_ext.data.visual_noise import PAPER_TYPES
    from avhubert_ext.decoding.attention import BeamConfig
    from avhubert_ext.evaluation.evaluate import EvaluationConfig, evaluate
    from avhubert_ext.reports import noise as noise_report

    torch.set_num_threads(args.threads)
    visual_noise = PAPER_TYPES if args.visual_noise == [] else tuple(args.visual_noise or ())
    config = EvaluationConfig(
        data=args.data,
        split=args.split,
        noise=tuple(args.noise),
        snr_db=tuple(args.snr),
        visual_noise=visual_noise,
        levels=tuple(args.levels),
        passes=args.passes,
        seed=args.noise_seed,
        modalities=args.modalities,
        beam=BeamConfig(args.beam, args.length_penalty, args.max_len_a, args.max_len_b),
        ctc_weight=args.ctc_weight,
        max_frames=args.max_frames,
        cache=args.cache_dir,
        device=args.device,
        subword_model=args.subword_model,
        allow_unreadable=args.allow_unreadable,
    )
    evaluate([(name, Path(file)) for name, file in args.model], config, args.out)
    print(noise_report.report(args.out))
    print(f"\nwritten: {args.out}/table_1.md, .html, results.json, .csv, *.png")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "evaluate", _evaluate, "Measure word error rates in acoustic and visual noise"
    )
    parser.add_argument(
        "--model",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "FILE"),
        help="Recognizer of any kind that `convert` reads, or a folder made by `export`; repeat "
        "the option for more models. Without it only the report is written",
    )
    parser.add_argument("--data", type=Path, required=True, help="Manifest folder of the test set")
    parser.add_argument("--split", default="test", help="Name of the manifest to decode")
    parser.add_argument(
        "--noise",
        nargs="*",
        type=Path,
        default=[],
        metavar="DIR",
        help="Folders of acoustic noise made by `noise`, one for each kind",
    )
    parser.add_argument(
        "--snr",
        nargs="+",
        type=float,
        default=[-10, -5, 0, 5, 10],
        metavar="DB",
        help="Signal-to-noise ratios of the acoustic noise, in dB",
    )
    parser.add_argument(
        "--visual-noise",
        nargs="*",
        metavar="TYPE",
        help="Types of visual noise; the option without a type means the paper's seven",
    )
    parser.add_argument(
        "--levels",
        nargs="+",
        type=int,
        default=[*range(1, 11)],
        metavar="LEVEL",
        help="Levels of the visual noise, from 1 to 10",
    )
    parser.add_argument(
        "--passes",
        type=positive,
        default=10,
        help="Number of decodings for each condition whose noise is drawn at random",
    )
    parser.add_argument("--noise-seed", type=int, default=1, help="Seed of the random noise")
    parser.add_argument(
        "--beam", type=positive, default=10, help="Number of hypotheses in the beam search"
    )
    parser.add_argument(
        "--ctc-weight",
        type=float,
        default=0.1,
        help="Weight of CTC in the search, for CTC/attention recognizers only",
    )
    own = parser.add_argument_group("AV-HuBERT's family only")
    own.add_argument(
        "--modalities",
        choices=("both", "audio", "video"),
        default="both",
        help="Streams that the model is given",
    )
    own.add_argument(
        "--length-penalty",
        type=float,
        default=1.0,
        help="Exponent of the length that scores are divided by",
    )
    own.add_argument(
        "--max-len-a",
        type=float,
        default=1.0,
        help="Limit of the length, in tokens for each video frame",
    )
    own.add_argument(
        "--max-len-b", type=int, default=0, help="Number of tokens that is added to the limit"
    )
    parser.add_argument(
        "--max-frames",
        type=positive,
        default=2000,
        help="Limit of the video frames in a batch, padding included",
    )
    parser.add_argument(
        "--cache-dir", type=Path, help="Folder to keep decoded video frames and audio features in"
    )
    parser.add_argument(
        "--subword-model",
        type=Path,
        help="Path of the sentencepiece model, if it is not the one in the data folder",
    )
    parser.add_argument(
        "--allow-unreadable",
        action="store_true",
        help="Score the passes even if more than 1%% of the utterances cannot be read; their words "
        "count as deleted, and the report shows how many there are",
    )
    add_device(parser)
    parser.add_argument(
        "--threads", type=positive, default=os.cpu_count(), help="Number of CPU threads"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="Folder to write passes and reports to"
    )


def _report(args: argparse.Namespace) -> None:
    from avhubert_ext.reports.decoded import report

    models = [(name, Path(checkpoint), Path(decoded)) for name, checkpoint, decoded in args.model]
    print(report(models, args.out))
    print(f"\nwritten: {args.out / 'results.json'}, {args.out / 'results.png'}")


def _add_report(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "report",
        _report,
        "Report what fairseq-generate decoded, as a table, JSON and a picture",
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder to write the report to")
    parser.add_argument(
        "--model",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "CHECKPOINT", "DECODED"),
        help="Model to report; DECODED is a folder that holds fairseq-generate's results in a "
        "folder for each condition. Repeat the option for more models",
    )


def _compare(args: argparse.Namespace) -> None:
    from avhubert_ext.reports.compare import compare

    decoded = [(name, Path(folder)) for name, folder in args.model]
    print(compare(decoded, args.distillation, args.out))
    print(f"\nwritten: {args.out / 'compare.json'}, {args.out / 'compare.png'}")


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "compare", _compare, "Compare models that were trained with several seeds"
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder to write the results to")
    parser.add_argument(
        "--model",
        nargs=2,
        action="append",
        required=True,
        metavar=("NAME", "DECODED"),
        help="Run of a model, with DECODED as for `report`; repeat the option, with the same NAME "
        "for other runs of the same model",
    )
    parser.add_argument(
        "--distillation",
        nargs="*",
        type=Path,
        default=[],
        metavar="DIR",
        help="Experiment folders of s3prl whose training curves are drawn",
    )


def _pruning_report(args: argparse.Namespace) -> None:
    from avhubert_ext.reports.pruning import report

    print(report(args.evaluation, args.out, args.last))
    print(f"\nwritten: {args.out}/pruning.md, .csv, pruning_*.png")


def _add_pruning_report(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "pruning-report",
        _pruning_report,
        "Report a pruning sweep, finished or not, as tables and pictures",
    )
    parser.add_argument(
        "--evaluation",
        type=Path,
        required=True,
        metavar="DIR",
        help="Folder that `evaluate` wrote, with models named dense, METHOD-SPARSITY (for example "
        "lrr-iterative-50), or rewind-T-SPARSITY",
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder to write the report to")
    parser.add_argument(
        "--last",
        type=int,
        metavar="T",
        help="Number of the dense model's last checkpoint, which one-shot LRR starts from",
    )


def _frontier(args: argparse.Namespace) -> None:
    from avhubert_ext.reports.frontier import frontier

    print(frontier(args.evaluation, args.out, args.condition))
    print(f"\nwritten: {args.out}/frontier.md, .csv, .png")


def _add_frontier(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "frontier", _frontier, "Plot accuracy against file size of evaluated models"
    )
    parser.add_argument(
        "--evaluation",
        nargs="+",
        type=Path,
        required=True,
        metavar="DIR",
        help="Folders that `evaluate` wrote for the same test set; only models stored as "
        ".safetensors have a size",
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder to write the results to")
    parser.add_argument(
        "--condition",
        default="clean",
        help="Condition whose word error rates are plotted, for example block_level3",
    )
