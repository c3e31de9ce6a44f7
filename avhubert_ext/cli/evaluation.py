"""Commands that measure and compare word error rates."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from avhubert_ext.cli.parsing import command, positive


def add_commands(commands: argparse._SubParsersAction) -> None:
    _add_evaluate(commands)
    _add_report(commands)
    _add_compare(commands)
    _add_pruning_report(commands)
    _add_frontier(commands)


def _evaluate(args: argparse.Namespace) -> None:
    import torch

    from avhubert_ext.data.visual_noise import PAPER_TYPES
    from avhubert_ext.decoding import BeamConfig
    from avhubert_ext.evaluation import noise_report
    from avhubert_ext.evaluation.evaluate import EvaluationConfig, evaluate

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
        device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        subword_model=args.subword_model,
        allow_unreadable=args.allow_unreadable,
    )
    evaluate([(name, Path(file)) for name, file in args.model], config, args.out)
    print(noise_report.report(args.out))
    print(f"\nwritten: {args.out}/table_1.md, .html, results.json, .csv, *.png")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "evaluate", _evaluate, "word error rates in noise: kinds x levels x passes"
    )
    parser.add_argument(
        "--model",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "FILE"),
        help="a recogniser of any kind that `convert` reads, or a folder of `export`; repeat; "
        "without any: only the report",
    )
    parser.add_argument("--data", type=Path, required=True, help="manifest folder")
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "--noise", nargs="*", type=Path, default=[], metavar="DIR", help="one folder a kind"
    )
    parser.add_argument(
        "--snr", nargs="+", type=float, default=[-10, -5, 0, 5, 10], metavar="DB", help="of --noise"
    )
    parser.add_argument(
        "--visual-noise", nargs="*", metavar="TYPE", help="types; no name: the paper's seven"
    )
    parser.add_argument(
        "--levels",
        nargs="+",
        type=int,
        default=[*range(1, 11)],
        metavar="LEVEL",
        help="of --visual-noise",
    )
    parser.add_argument(
        "--passes",
        type=positive,
        default=10,
        help="decodings under each noise that is drawn at random",
    )
    parser.add_argument("--noise-seed", type=int, default=1)
    parser.add_argument("--beam", type=positive, default=10)
    parser.add_argument(
        "--ctc-weight", type=float, default=0.1, help="in the search of CTC/attention recognisers"
    )
    own = parser.add_argument_group("AV-HuBERT's family only")
    own.add_argument("--modalities", choices=("both", "audio", "video"), default="both")
    own.add_argument("--length-penalty", type=float, default=1.0)
    own.add_argument("--max-len-a", type=float, default=1.0, help="tokens a frame, at most")
    own.add_argument("--max-len-b", type=int, default=0, help="tokens more")
    parser.add_argument("--max-frames", type=positive, default=2000, help="in a batch")
    parser.add_argument("--cache-dir", type=Path, help="folder for decoded frames and features")
    parser.add_argument(
        "--subword-model", type=Path, help="sentencepiece model, if not the one in the data folder"
    )
    parser.add_argument(
        "--allow-unreadable",
        action="store_true",
        help="score the passes even if more than 1%% of the utterances cannot be read; their words "
        "count as deleted, and the report says how many there are",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1; without it a GPU where there is one")
    parser.add_argument("--threads", type=positive, default=os.cpu_count())
    parser.add_argument("--out", type=Path, required=True, help="folder to write results to")


def _report(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.report import report

    models = [(name, Path(checkpoint), Path(decoded)) for name, checkpoint, decoded in args.model]
    print(report(models, args.out))
    print(f"\nwritten: {args.out / 'results.json'}, {args.out / 'results.png'}")


def _add_report(commands: argparse._SubParsersAction) -> None:
    parser = command(commands, "report", _report, "table, JSON and picture of decoded models")
    parser.add_argument("--out", type=Path, required=True, help="folder to write results to")
    parser.add_argument(
        "--model",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "CHECKPOINT", "DECODED"),
        help="DECODED holds a folder with fairseq-generate's results for each condition; repeat",
    )


def _compare(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.compare import compare

    decoded = [(name, Path(folder)) for name, folder in args.model]
    print(compare(decoded, args.distillation, args.out))
    print(f"\nwritten: {args.out / 'compare.json'}, {args.out / 'compare.png'}")


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "compare", _compare, "mean and spread of models trained with several seeds"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write results to")
    parser.add_argument(
        "--model",
        nargs=2,
        action="append",
        required=True,
        metavar=("NAME", "DECODED"),
        help="DECODED as for `report`; the same NAME again is another run of that model",
    )
    parser.add_argument(
        "--distillation",
        nargs="*",
        type=Path,
        default=[],
        metavar="DIR",
        help="experiment folders of s3prl, to draw their curves",
    )


def _pruning_report(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.pruning_report import report

    print(report(args.evaluation, args.out, args.last))
    print(f"\nwritten: {args.out}/pruning.md, .csv, pruning_*.png")


def _add_pruning_report(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "pruning-report",
        _pruning_report,
        "tables and pictures of a pruning sweep, also of one that is under way",
    )
    parser.add_argument(
        "--evaluation",
        type=Path,
        required=True,
        metavar="DIR",
        help="of `evaluate`, with models named dense, METHOD-SPARSITY as lrr-iterative-50, "
        "rewind-T-SPARSITY",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--last",
        type=int,
        metavar="T",
        help="last checkpoint of the dense model, which one-shot LRR starts from",
    )


def _frontier(args: argparse.Namespace) -> None:
    from avhubert_ext.evaluation.frontier import frontier

    print(frontier(args.evaluation, args.out, args.condition))
    print(f"\nwritten: {args.out}/frontier.md, .csv, .png")


def _add_frontier(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "frontier", _frontier, "accuracy against file size of evaluated models"
    )
    parser.add_argument(
        "--evaluation",
        nargs="+",
        type=Path,
        required=True,
        metavar="DIR",
        help="of `evaluate`, of the same test set; only models in .safetensors have a size",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--condition", default="clean", help="of the word error rates, as block_level3"
    )
