"""Commands that measure cost and speed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from avhubert_ext.cli.parsing import add_recognizer, command, positive

OUT = "JSON file to write the measurements to"
ROUNDS = "Number of rounds; each times everything once"


def add_commands(commands: argparse._SubParsersAction) -> None:
    _add_complexity(commands)
    _add_benchmark(commands)
    _add_benchmark_distillation(commands)
    _add_benchmark_decoding(commands)
    _add_benchmark_data(commands)
    _add_benchmark_sparse(commands)
    _add_benchmark_runtime(commands)
    _add_benchmark_transcription(commands)


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
        "Show parameters and FLOPs per frame beside the paper's",
    )
    models = parser.add_mutually_exclusive_group()
    models.add_argument(
        "--preset",
        nargs="+",
        metavar="NAME",
        help="Networks to show: teacher, 1 ... 7, base-s, base-l, teacher-tiny, tiny-7, vsr-tiny; "
        "without the option all of paper A's Table 1",
    )
    models.add_argument(
        "--checkpoint", nargs="+", type=Path, metavar="FILE", help="Model files to show"
    )
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table")


def _show(text: str, report: dict[str, Any], out: Path) -> None:
    """What every benchmark ends with: its table on the terminal, all of it in a JSON file."""
    import json

    from avhubert_ext.data.files import write_text

    print(text)
    write_text(out, json.dumps(report, indent=2) + "\n")
    print(f"\nwritten: {out}")


def _benchmark(args: argparse.Namespace) -> None:
    import torch

    from avhubert_ext.benchmarks.encoder import BACKENDS, benchmark, text_table
    from avhubert_ext.models.presets import TABLE_1

    single = args.dtype == "float32"
    report = benchmark(
        args.preset or list(TABLE_1),
        args.backend or [backend for backend in BACKENDS if single or backend != "onnx"],
        args.threads,
        args.frames,
        getattr(torch, args.dtype),
        args.rounds,
    )
    _show(text_table(report), report, args.out)


def _add_benchmark(commands: argparse._SubParsersAction) -> None:
    parser = command(commands, "benchmark", _benchmark, "Time the encoders side by side on the CPU")
    parser.add_argument("what", choices=("encoder",), help="What to time")
    parser.add_argument(
        "--preset",
        nargs="+",
        metavar="NAME",
        help="Networks to time, as for `complexity`; without the option all of paper A's Table 1",
    )
    parser.add_argument(
        "--backend",
        nargs="+",
        choices=("eager", "fused", "compile", "onnx"),
        help="Forms to time; fused is the model after `.fuse()`. Without the option all of them",
    )
    parser.add_argument("--threads", type=positive, default=1, help="Number of CPU threads")
    parser.add_argument(
        "--frames",
        type=positive,
        default=100,
        help="Length of the clip in video frames, 25 per second",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="Data type of weights and activations",
    )
    parser.add_argument("--rounds", type=positive, default=9, help=ROUNDS)
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help=OUT)


def _benchmark_distillation(args: argparse.Namespace) -> None:
    from avhubert_ext.benchmarks.distillation import benchmark_distillation, text_table

    report = benchmark_distillation(
        args.student,
        args.teacher,
        args.batch_size,
        args.frames,
        args.threads,
        args.rounds,
        args.teacher_precision,
    )
    _show(text_table(report), report, args.out)


def _add_benchmark_distillation(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "benchmark-distillation",
        _benchmark_distillation,
        "Time an update of a distillation beside a plain training loop on the CPU",
    )
    parser.add_argument("--student", default="7", help="Preset of the student: 1 ... 7 or tiny-7")
    parser.add_argument(
        "--teacher", default="teacher", help="Preset of the teacher: teacher or teacher-tiny"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=4, help="Number of utterances in an update"
    )
    parser.add_argument(
        "--frames", type=positive, default=100, help="Length of each utterance in video frames"
    )
    parser.add_argument("--threads", type=positive, default=2, help="Number of CPU threads")
    parser.add_argument("--rounds", type=positive, default=5, help=ROUNDS)
    parser.add_argument(
        "--teacher-precision",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="Data type of the teacher; auto is bfloat16 if the hardware supports it",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help=OUT)


def _benchmark_decoding(args: argparse.Namespace) -> None:
    from avhubert_ext.benchmarks.decoding import benchmark_decoding, text_table

    report = benchmark_decoding(
        args.preset,
        args.beam,
        args.seconds,
        args.tokens,
        args.threads,
        args.rounds,
        args.decoder,
    )
    _show(text_table(report), report, args.out)


def _add_benchmark_decoding(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "benchmark-decoding",
        _benchmark_decoding,
        "Time whole recognizers, encoder and beam search, side by side on the CPU",
    )
    parser.add_argument(
        "--preset",
        nargs="+",
        default=["teacher", "7"],
        metavar="NAME",
        help="Encoders to time, as for `complexity`",
    )
    parser.add_argument("--decoder", default="base", help="Preset of all decoders: base or tiny")
    parser.add_argument(
        "--beam", type=positive, default=10, help="Number of hypotheses in the beam search"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="Length of the clip in seconds")
    parser.add_argument(
        "--tokens",
        type=positive,
        help="Number of tokens to decode; without it 3.5 per second, as in LRS3",
    )
    parser.add_argument("--threads", type=positive, default=1, help="Number of CPU threads")
    parser.add_argument("--rounds", type=positive, default=5, help=ROUNDS)
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help=OUT)


def _benchmark_data(args: argparse.Namespace) -> None:
    from avhubert_ext.benchmarks.data import benchmark_data, text_table

    noise = tuple(map(Path, args.noise_manifests.split(","))) if args.noise_manifests else ()
    report = benchmark_data(args.data, args.split, noise, args.rounds)
    _show(text_table(report), report, args.out)


def _add_benchmark_data(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "benchmark-data",
        _benchmark_data,
        "Time the reading of training data beside a plain data set on one CPU core",
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="Manifest folder made by `prepare`"
    )
    parser.add_argument("--split", default="train", help="Name of the manifest to read")
    parser.add_argument(
        "--noise-manifests",
        metavar="DIRS",
        help="Folders made by `noise`, separated by commas, to add noise with probability 0.25",
    )
    parser.add_argument("--rounds", type=positive, default=5, help="Number of epochs to time")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help=OUT)


def _benchmark_sparse(args: argparse.Namespace) -> None:
    from avhubert_ext.benchmarks.sparsity import benchmark_sparse, text_table

    report = benchmark_sparse(args.preset, args.sparsity, args.threads, args.frames, args.rounds)
    _show(text_table(report), report, args.out)


def _add_benchmark_sparse(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "benchmark-sparse",
        _benchmark_sparse,
        "Time pruned layers and encoders, sparse beside dense, on the CPU",
    )
    parser.add_argument(
        "--preset",
        nargs="+",
        default=["base-s", "base-l", "7"],
        metavar="NAME",
        help="Encoders to time, as for `complexity`",
    )
    parser.add_argument(
        "--sparsity",
        nargs="+",
        type=float,
        default=[0.5, 0.8, 0.9, 0.95],
        metavar="S",
        help="Sparsities of each linear layer, in [0, 1)",
    )
    parser.add_argument("--threads", type=positive, default=1, help="Number of CPU threads")
    parser.add_argument(
        "--frames",
        type=positive,
        default=100,
        help="Length of the clip in video frames, 25 per second",
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        default=5,
        help="Number of rounds for the encoders; layers get ten times as many",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help=OUT)


def _benchmark_transcription(args: argparse.Namespace) -> None:
    import sys

    from avhubert_ext.benchmarks.transcription import benchmark_transcription, text_table
    from avhubert_ext.recognizers.base import Recognizer

    recognizer = Recognizer.from_file(
        args.model, dictionary=args.dictionary, device="cpu", threads=args.threads
    )
    report = benchmark_transcription(
        recognizer, args.corpus, args.longest, lambda line: print(line, file=sys.stderr)
    )
    _show(text_table(report), report, args.out)


def _add_benchmark_transcription(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "benchmark-transcription",
        _benchmark_transcription,
        "Measure the errors of word times, and what it costs to cut long clips",
    )
    add_recognizer(parser)
    parser.add_argument(
        "--corpus",
        type=Path,
        required=True,
        help="Corpus in the layout of LRS3, with word times in its transcripts",
    )
    parser.add_argument("--threads", type=positive, default=1, help="Number of CPU threads")
    parser.add_argument("--out", type=Path, default=Path("benchmark_transcription.json"), help=OUT)


def _benchmark_runtime(args: argparse.Namespace) -> None:
    from avhubert_ext.benchmarks.runtime import FORMS, benchmark_runtime, text_table

    report = benchmark_runtime(
        args.model,
        args.folder,
        args.form or list(FORMS),
        args.threads,
        args.beam,
        args.seconds,
        args.tokens,
        args.rounds,
    )
    _show(text_table(report), report, args.out)


def _add_benchmark_runtime(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "benchmark-runtime",
        _benchmark_runtime,
        "Measure size and speed of recognizers on the CPU, in PyTorch and in all exported forms",
    )
    parser.add_argument(
        "--model",
        nargs="+",
        default=["7", "tiny-7"],
        metavar="NAME",
        help="Recognizers of AV-HuBERT's family to time: encoder presets as for `complexity`, or "
        "model files",
    )
    parser.add_argument(
        "--form",
        nargs="+",
        metavar="FORM",
        help="Forms to time: pytorch, 'pytorch fused', onnx, 'onnx int8', openvino, or 'openvino "
        "int8'; without the option all of them",
    )
    parser.add_argument(
        "--threads", nargs="+", type=positive, default=[1, 2], help="Numbers of CPU threads"
    )
    parser.add_argument(
        "--beam", type=positive, default=10, help="Number of hypotheses in the beam search"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="Length of the clip in seconds")
    parser.add_argument(
        "--tokens",
        type=positive,
        help="Number of tokens to decode; without it 3.5 per second, as in LRS3",
    )
    parser.add_argument("--rounds", type=positive, default=5, help=ROUNDS)
    parser.add_argument(
        "--folder",
        type=Path,
        required=True,
        help="Folder that models are exported to, and found in again",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help=OUT)
