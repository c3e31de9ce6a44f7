"""`evaluate`: word error rates in noise."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from avhubert_ext.cli.parsing import add_device, command, positive


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    _add_evaluate(commands)


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
        commands,
        "evaluate",
        _evaluate,
        "Measure word error rates in acoustic and visual noise",
        "avhubert-ext evaluate --model student model.safetensors --data data --out evaluation",
        "avhubert-ext evaluate --model student model.safetensors --data data --out evaluation \\\n"
        "    --noise noise/babble --snr -5 0 5 --passes 3",
        "avhubert-ext evaluate --model reader vsr.pt --data data --out evaluation --visual-noise",
    )
    parser.add_argument(
        "--model",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "FILE"),
        help="Checkpoint that `model convert` can read, or folder written by `export`; repeat the "
        "option for more models. Without it only the report is written",
    )
    parser.add_argument("--data", type=Path, required=True, help="Manifest folder of the test set")
    parser.add_argument("--split", default="test", help="Name of the manifest to decode")
    parser.add_argument(
        "--noise",
        nargs="*",
        type=Path,
        default=[],
        metavar="DIR",
        help="Folders of acoustic noise written by `data noise`, one for each kind",
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
        help="Types of visual noise; the option without a type stands for the seven of paper B",
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
        help="Number of decodings of each condition with random noise",
    )
    parser.add_argument("--noise-seed", type=int, default=1, help="Seed of the random noise")
    parser.add_argument(
        "--beam", type=positive, default=10, help="Number of hypotheses in the beam search"
    )
    parser.add_argument(
        "--ctc-weight",
        type=float,
        default=0.1,
        help="Weight of the CTC scores in the search, for models with a CTC layer only",
    )
    own = parser.add_argument_group("models of the AV-HuBERT family only")
    own.add_argument(
        "--modalities",
        choices=("both", "audio", "video"),
        default="both",
        help="Streams that the model receives",
    )
    own.add_argument(
        "--length-penalty",
        type=float,
        default=1.0,
        help="Exponent of the length by which scores are divided",
    )
    own.add_argument(
        "--max-len-a",
        type=float,
        default=1.0,
        help="Limit of the length, in tokens per video frame",
    )
    own.add_argument(
        "--max-len-b", type=int, default=0, help="Number of tokens added to the limit of the length"
    )
    parser.add_argument(
        "--max-frames",
        type=positive,
        default=2000,
        help="Limit of the video frames in one batch, padding included",
    )
    parser.add_argument(
        "--cache-dir", type=Path, help="Folder that caches decoded video frames and audio features"
    )
    parser.add_argument(
        "--subword-model",
        type=Path,
        help="Path of the sentencepiece model, if it is not in the data folder",
    )
    parser.add_argument(
        "--allow-unreadable",
        action="store_true",
        help="Score the passes even if more than 1%% of the utterances cannot be read; their words "
        "count as deleted, and the report states how many there are",
    )
    add_device(parser)
    parser.add_argument(
        "--threads", type=positive, default=os.cpu_count(), help="Number of CPU threads"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="Folder to write results and reports to"
    )
