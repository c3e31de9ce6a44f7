"""Commands that measure speed and size."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from avhubert_ext.cli.parsing import add_recognizer, command, positive

PRESETS = "Presets to time, as for `model complexity`"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands."""
    _add_encoder(commands)
    _add_distillation(commands)
    _add_data(commands)
    _add_sparsity(commands)
    _add_runtime(commands)
    _add_transcription(commands)


def _show(text: str, report: dict[str, Any], out: Path) -> None:
    """Print a benchmark's table and write all its numbers to a JSON file."""
    import json

    from avhubert_ext.data.files import write_text

    print(text)
    write_text(out, json.dumps(report, indent=2) + "\n")
    print(f"\nwritten: {out}")


def _add_threads(parser: argparse.ArgumentParser, default: int = 1) -> None:
    parser.add_argument("--threads", type=positive, default=default, help="Number of CPU threads")


def _add_frames(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--frames",
        type=positive,
        default=100,
        help="Length of the clip in video frames, 25 per second",
    )


def _add_rounds(parser: argparse.ArgumentParser, default: int = 5) -> None:
    parser.add_argument(
        "--rounds",
        type=positive,
        default=default,
        help="Number of rounds; each round times everything once",
    )


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmark.json"),
        help="JSON file to write the measurements to",
    )


def _encoder(args: argparse.Namespace) -> None:
    import torch

    from avhubert_ext.benchmarks.encoder import BACKENDS, benchmark_encoder, text_table
    from avhubert_ext.models.presets import TABLE_1

    single = args.dtype == "float32"
    report = benchmark_encoder(
        args.preset or list(TABLE_1),
        args.backend or [backend for backend in BACKENDS if single or backend != "onnx"],
        args.threads,
        args.frames,
        getattr(torch, args.dtype),
        args.rounds,
    )
    _show(text_table(report), report, args.out)


def _add_encoder(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "encoder",
        _encoder,
        "Time encoders side by side on the CPU",
        "avhubert-ext benchmark encoder --preset teacher-base student-7",
        "avhubert-ext benchmark encoder --backend eager fused --threads 2 --rounds 5",
    )
    parser.add_argument(
        "--preset",
        nargs="+",
        metavar="NAME",
        help=f"{PRESETS}; by default all of paper A's Table 1",
    )
    parser.add_argument(
        "--backend",
        nargs="+",
        choices=("eager", "fused", "compile", "onnx"),
        help="Forms of the encoder to time; fused is the model after `.fuse()`. By default all",
    )
    _add_threads(parser)
    _add_frames(parser)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="Data type of weights and activations",
    )
    _add_rounds(parser, 9)
    _add_out(parser)


def _distillation(args: argparse.Namespace) -> None:
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


def _add_distillation(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "distillation",
        _distillation,
        "Time one update of a distillation against a plain training loop on the CPU",
        "avhubert-ext benchmark distillation",
        "avhubert-ext benchmark distillation --student student-tiny-7 --teacher teacher-tiny",
    )
    parser.add_argument(
        "--student",
        default="student-7",
        help="Preset of the student: student-1 to student-7, or a tiny variant such as "
        "student-tiny-7",
    )
    parser.add_argument(
        "--teacher",
        default="teacher-base",
        help="Preset of the teacher: teacher-base or teacher-tiny",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=4, help="Number of utterances in an update"
    )
    parser.add_argument(
        "--frames", type=positive, default=100, help="Length of each utterance in video frames"
    )
    _add_threads(parser, 2)
    _add_rounds(parser)
    parser.add_argument(
        "--teacher-precision",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="Data type of the teacher; auto is bfloat16 if the hardware supports it",
    )
    _add_out(parser)


def _data(args: argparse.Namespace) -> None:
    from avhubert_ext.benchmarks.data import benchmark_data, text_table

    noise = tuple(map(Path, args.noise_manifests.split(","))) if args.noise_manifests else ()
    report = benchmark_data(args.data, args.split, noise, args.rounds)
    _show(text_table(report), report, args.out)


def _add_data(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "data",
        _data,
        "Time how fast training data is read, against a plain data set, on one CPU core",
        "avhubert-ext benchmark data --data data --noise-manifests noise/babble,noise/music",
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="Manifest folder written by `data prepare`"
    )
    parser.add_argument("--split", default="train", help="Name of the manifest to read")
    parser.add_argument(
        "--noise-manifests",
        metavar="DIRS",
        help="Folders written by `data noise`, separated by commas, to add noise with probability "
        "0.25",
    )
    parser.add_argument("--rounds", type=positive, default=5, help="Number of epochs to time")
    _add_out(parser)


def _sparsity(args: argparse.Namespace) -> None:
    from avhubert_ext.benchmarks.sparsity import benchmark_sparsity, text_table

    report = benchmark_sparsity(args.preset, args.sparsity, args.threads, args.frames, args.rounds)
    _show(text_table(report), report, args.out)


def _add_sparsity(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "sparsity",
        _sparsity,
        "Time pruned layers and encoders, sparse against dense, on the CPU",
        "avhubert-ext benchmark sparsity --preset vsr-base-s --sparsity 0.5 0.9",
    )
    parser.add_argument(
        "--preset",
        nargs="+",
        default=["vsr-base-s", "vsr-base-l", "student-7"],
        metavar="NAME",
        help=PRESETS,
    )
    parser.add_argument(
        "--sparsity",
        nargs="+",
        type=float,
        default=[0.5, 0.8, 0.9, 0.95],
        metavar="S",
        help="Sparsities of each linear layer, in [0, 1)",
    )
    _add_threads(parser)
    _add_frames(parser)
    parser.add_argument(
        "--rounds",
        type=positive,
        default=5,
        help="Number of rounds for the encoders; layers get ten times as many",
    )
    _add_out(parser)


def _runtime(args: argparse.Namespace) -> None:
    import tempfile

    from avhubert_ext.benchmarks.runtime import FORMS, benchmark_runtime, text_table

    with tempfile.TemporaryDirectory() as temporary:
        report = benchmark_runtime(
            args.model,
            args.folder or Path(temporary),
            args.form or list(FORMS),
            args.threads,
            args.beam,
            args.seconds,
            args.tokens,
            args.rounds,
            args.decoder,
        )
    _show(text_table(report), report, args.out)


def _add_runtime(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "runtime",
        _runtime,
        "Measure size and speed of whole recognizers on the CPU, in PyTorch and as exported graphs",
        "avhubert-ext benchmark runtime --model student-7 model.safetensors --folder exported",
        "avhubert-ext benchmark runtime --model teacher-base student-7 --form pytorch onnx",
    )
    parser.add_argument(
        "--model",
        "--preset",  # as `benchmark-decoding` had it
        nargs="+",
        default=["student-7", "student-tiny-7"],
        metavar="NAME",
        help="Recognizers of the AV-HuBERT family to time: encoder presets, as for `model "
        "complexity`, or model files",
    )
    parser.add_argument(
        "--decoder",
        metavar="NAME",
        help="Decoder of the presets; by default decoder-base, and decoder-tiny for tiny presets",
    )
    parser.add_argument(
        "--form",
        nargs="+",
        metavar="FORM",
        help="Forms to time: pytorch, 'pytorch fused', onnx, 'onnx int8', openvino, or 'openvino "
        "int8'; by default all",
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
        help="Number of tokens to decode; by default 3.5 per second, as in LRS3",
    )
    _add_rounds(parser)
    parser.add_argument(
        "--folder",
        type=Path,
        help="Folder that keeps the exported models for the next run; by default a temporary one",
    )
    _add_out(parser)


def _transcription(args: argparse.Namespace) -> None:
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


def _add_transcription(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "transcription",
        _transcription,
        "Measure the errors of word times, and what splitting long clips costs",
        "avhubert-ext benchmark transcription --model model.safetensors --corpus corpus \\\n"
        "    --longest 4",
    )
    add_recognizer(parser)
    parser.add_argument(
        "--corpus",
        type=Path,
        required=True,
        help="Corpus in the layout of LRS3, with word times in its transcripts",
    )
    _add_threads(parser)
    _add_out(parser)
